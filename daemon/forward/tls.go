package forward

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"mirrord/protocol"
	"mirrord/protocol/socket"
)

// maxPEM is the most bytes that are read of a file of certificates.
const maxPEM = 1 << 20

// Roots are what a debuggee's certificate is checked by; as a whole as the peer
// has them (tls_delivery).
type Roots struct {
	Files      []string // PEM, or directories of such; empty: any certificate will do
	ServerCert string   // PEM: the debuggee's own
	ServerName string   // "": ServerCert's, else the client's choice, else localhost
	ClientCert string   // PEM: what is shown to the debuggee, with its key
	ClientKey  string
}

// A Delivery is how what was said in TLS is said to a debuggee.
type Delivery struct {
	config tls.Config
	name   string // "": as the client has it
}

// NewDelivery reads what is in files.
func NewDelivery(r Roots) (*Delivery, error) {
	d := &Delivery{name: r.ServerName}
	d.config.InsecureSkipVerify = true
	var list []*x509.Certificate
	for _, path := range r.Files {
		some, err := certificates(path)
		if err != nil {
			return nil, fmt.Errorf("reading trust_roots %s: %w", path, err)
		}
		list = append(list, some...)
	}
	if r.ServerCert != "" {
		var err error
		if list, err = certificates(r.ServerCert); err != nil {
			return nil, fmt.Errorf("reading server_cert %s: %w", r.ServerCert, err)
		}
		if d.name == "" && len(list[0].DNSNames) > 0 {
			d.name = list[0].DNSNames[0]
		} else if d.name == "" && len(list[0].IPAddresses) > 0 {
			d.name = list[0].IPAddresses[0].String()
		}
	}
	if len(list) > 0 {
		d.config.InsecureSkipVerify, d.config.RootCAs = false, x509.NewCertPool()
		for _, c := range list {
			d.config.RootCAs.AddCert(c)
		}
	}
	if r.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(r.ClientCert, r.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("reading client_cert %s with client_key %s: %w", r.ClientCert, r.ClientKey, err)
		}
		d.config.Certificates = []tls.Certificate{pair}
	}
	return d, nil
}

// certificates reads those of a file, or of a directory's files, of which there
// has to be one.
func certificates(path string) ([]*x509.Certificate, error) {
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		files = nil
		for _, e := range entries {
			file := filepath.Join(path, e.Name())
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
				files = append(files, file)
			}
		}
	}
	var list []*x509.Certificate
	for _, file := range files {
		some, err := parseFile(file)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return list, nil
}

func parseFile(file string) (list []*x509.Certificate, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rest, err := io.ReadAll(io.LimitReader(f, maxPEM))
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(bytes.TrimSpace(rest)); block == nil {
			return list, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, c)
	}
}

// A TLSError is why a debuggee did not speak TLS as it should.
type TLSError struct{ Err error }

func (e *TLSError) Error() string { return "making TLS with the debuggee: " + e.Err.Error() }
func (e *TLSError) Unwrap() error { return e.Err }

// secure makes TLS with a debuggee, as its client has made it with the agent. A
// debuggee that is stopped may take its time, as far as the agent waits.
func (d *Delivery) secure(ctx context.Context, conn protocol.Ending, o protocol.Opened) (protocol.Ending, error) {
	config := d.config.Clone()
	config.ServerName = cmp.Or(d.name, o.ServerName, "localhost")
	if o.Protocol != "" {
		config.NextProtos = []string{o.Protocol}
	}
	t := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, acceptTime)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, &TLSError{err}
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != o.Protocol && slices.Contains([]string{o.Protocol, got}, "h2") {
		return nil, &TLSError{fmt.Errorf("it agrees to protocol %q, where the client speaks %q", got, o.Protocol)}
	}
	return socket.NewTLS(t, conn), nil
}

package incoming

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// A client's TLS is opened by the pod's own certificate, for its requests to be
// chosen:
//
//	client ═ TLS ═ requests ─ choose ─┬ TLS ═ pod
//	                                  └▶ holder, whose daemon makes TLS of it
//
// Before, the pod is asked what it would have answered this client: its certificate
// has to be one that we have, it must not want the client's, and the protocol that it
// agrees to is what the client gets. Whatever cannot be opened so that the client
// sees no difference is not opened.

// Limits of opening TLS.
const (
	greetTime  = 5 * time.Second // for the pod's part of a handshake
	spareTime  = time.Second     // that the connection by which the pod was asked is kept for a request
	sealedTime = 10 * time.Second
	maxSealed  = 1 << 10
	maxPairs   = 4
)

// spoken are the protocols that requests are seen in.
var spoken = []string{"h2", "http/1.1", "http/1.0"}

var (
	errOther  = errors.New("the pod's certificate is another than was given")
	errWanted = errors.New("the pod wants its client's certificate")
)

// keys are a pod's certificates: it may take some time until it uses a new one.
type keys struct {
	read func() (*tls.Certificate, error)

	mu     sync.Mutex
	pairs  []*tls.Certificate   // guarded by mu; newest first
	sealed map[string]time.Time // guarded by mu; names that could not be opened, and since when
}

func newKeys(q protocol.TLS, read func(path string) ([]byte, error)) (*keys, error) {
	k := &keys{read: func() (*tls.Certificate, error) { return Certificate(q, read) }, sealed: map[string]time.Time{}}
	pair, err := k.read()
	k.pairs = []*tls.Certificate{pair}
	return k, err
}

// Certificate reads a certificate and its key, and says what is wrong with them.
func Certificate(q protocol.TLS, read func(path string) ([]byte, error)) (*tls.Certificate, error) {
	cert, key, name := q.Cert, []byte(q.Key), "the pod's certificate"
	if q.CertPath != "" {
		var err error
		if cert, err = read(string(q.CertPath)); err != nil {
			return nil, fmt.Errorf("reading the pod's certificate %s: %w", q.CertPath, err)
		}
		if key, err = read(string(q.KeyPath)); err != nil {
			return nil, fmt.Errorf("reading the key of the pod's certificate, %s: %w", q.KeyPath, err)
		}
		name = fmt.Sprintf("the pod's certificate %s with the key %s", q.CertPath, q.KeyPath)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("using %s: %w: %w", name, err, unix.EINVAL)
	}
	return &pair, nil
}

// newest is the certificate for a pod that does not answer.
func (k *keys) newest() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pairs[0]
}

// find has the pod's certificate, and reads it again where it is a new one.
func (k *keys) find(leaf *x509.Certificate) *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	is := func(pair *tls.Certificate) bool { return leaf.Equal(pair.Leaf) }
	i := slices.IndexFunc(k.pairs, is)
	if i < 0 {
		pair, err := k.read()
		if err != nil || !is(pair) {
			return nil
		}
		k.pairs = slices.Insert(k.pairs, 0, pair)
		k.pairs = k.pairs[:min(len(k.pairs), maxPairs)]
		i = 0
	}
	return k.pairs[i]
}

// seals tells whether it is known that a server cannot be opened: the pod, which
// tells its user of each handshake that fails, is not asked again so soon.
func (k *keys) seals(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	since, ok := k.sealed[name]
	return ok && time.Since(since) < sealedTime
}

func (k *keys) seal(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sealed) >= maxSealed {
		clear(k.sealed)
	}
	k.sealed[name] = time.Now()
}

// keys are those of the oldest holder that has given any.
func (p *port) keys() *keys {
	for _, s := range p.holders() {
		if s.keys != nil {
			return s.keys
		}
	}
	return nil
}

// Secure asks the pod, and opens the client's TLS as it would have.
func (e *exits) Secure(hello *tls.ClientHelloInfo) *httpfilter.Secured {
	k, name := e.port.keys(), hello.ServerName
	if k == nil || k.seals(name) || !slices.ContainsFunc(hello.SupportedVersions, modern) {
		return nil
	}
	var offered []string
	for _, p := range hello.SupportedProtos {
		if slices.Contains(spoken, p) {
			offered = append(offered, p)
		}
	}
	if len(hello.SupportedProtos) > 0 && len(offered) == 0 {
		return nil
	}
	in := &inside{exits: *e, name: name, keys: k}
	conn, pair, err := in.dial(offered)
	config := &tls.Config{NextProtos: offered}
	switch {
	case err == nil:
		in.agreed = conn.agreed
		config.NextProtos = nil
		if conn.agreed != "" {
			config.NextProtos = []string{conn.agreed}
		}
		in.keep(conn)
	case errors.Is(err, unix.ECONNREFUSED): // who has no pod may still have a holder
		pair = k.newest()
		if len(offered) > 0 {
			in.agreed, config.NextProtos = offered[0], offered[:1]
		}
	default:
		e.in.log.Debug("TLS not opened", "port", e.offer.Port, "client", e.offer.Client, "err", err)
		if errors.Is(err, errOther) || errors.Is(err, errWanted) {
			k.seal(name)
		}
		return nil
	}
	config.Certificates = []tls.Certificate{*pair}
	in.offer.TLS = &protocol.Opened{ServerName: name, Protocol: in.agreed}
	return &httpfilter.Secured{Config: config, Exits: in, Done: in.drop}
}

// modern tells whether a version of TLS is one that we speak.
func modern(version uint16) bool { return version == tls.VersionTLS12 || version == tls.VersionTLS13 }

// inside are the exits of what a client said in TLS.
type inside struct {
	exits
	name   string
	agreed string // protocol
	keys   *keys

	mu    sync.Mutex
	spare httpfilter.Conn // guarded by mu; to the pod, nil: none
	timer *time.Timer
}

// A podTLS is a connection to the pod in TLS.
type podTLS struct {
	*socket.TLS
	agreed string
}

// dial connects to the pod in TLS, as the client would.
func (in *inside) dial(offered []string) (conn *podTLS, pair *tls.Certificate, err error) {
	c, undo, err := in.in.dialPod(in.ctx, in.offer.Client, in.offer.Local)
	if err != nil {
		return nil, nil, err
	}
	below := newDirect(c, undo)
	t := tls.Client(below, &tls.Config{
		ServerName: in.name, NextProtos: offered,
		InsecureSkipVerify: true, // it has to be one that was given: no authority knows better
		VerifyConnection: func(s tls.ConnectionState) error {
			if pair = in.keys.find(s.PeerCertificates[0]); pair == nil {
				return errOther
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errWanted },
	})
	ctx, cancel := context.WithTimeout(in.ctx, greetTime)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		_ = below.Close()
		return nil, nil, fmt.Errorf("making TLS with the pod: %w", err)
	}
	return &podTLS{socket.NewTLS(t, below), t.ConnectionState().NegotiatedProtocol}, pair, nil
}

// keep keeps a connection to the pod for a request that comes soon.
func (in *inside) keep(c httpfilter.Conn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spare = c
	in.timer = time.AfterFunc(spareTime, in.drop)
}

func (in *inside) take() httpfilter.Conn {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.spare
	in.spare = nil
	if c != nil {
		in.timer.Stop()
	}
	return c
}

func (in *inside) drop() {
	if c := in.take(); c != nil {
		_ = c.Close()
	}
}

func (in *inside) Pod() (httpfilter.Conn, error) {
	if c := in.take(); c != nil {
		return c, nil
	}
	var offered []string
	if in.agreed != "" {
		offered = []string{in.agreed}
	}
	c, _, err := in.dial(offered)
	if err != nil {
		return nil, err
	}
	if c.agreed != in.agreed {
		_ = c.Close()
		return nil, fmt.Errorf("making TLS with the pod: it agrees to %q, not %q as before", c.agreed, in.agreed)
	}
	return c, nil
}

func (in *inside) Choose(r *filter.Request) (httpfilter.Holder, filter.Answer) {
	r.ServerName = in.name
	return in.exits.Choose(r)
}

func (in *inside) Secure(*tls.ClientHelloInfo) *httpfilter.Secured { return nil }

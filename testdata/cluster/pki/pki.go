// Package pki makes a test cluster's certificates and kubeconfigs: one
// authority signs everything, with the subjects that kubeadm uses. They are
// for a cluster that only this machine's loopback reaches.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of every certificate, the authority's too.
const lifetime = 10 * 365 * 24 * time.Hour

// A Leaf is a certificate to issue, for clients and servers alike.
type Leaf struct {
	Name         string // of the files NAME.crt and NAME.key
	CommonName   string
	Organization string
	Hosts        []string // DNS names and addresses
}

// Issue writes ca.crt, ca.key and each leaf's pair into dir, replacing what is there.
func Issue(dir string, leaves []Leaf) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the authority's key: %w", err)
	}
	template := certificate("mirrord test cluster", "")
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("signing the authority: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading the authority back: %w", err)
	}
	if err := write(dir, "ca", der, key); err != nil {
		return err
	}
	for _, l := range leaves {
		if err := issue(dir, ca, key, l); err != nil {
			return fmt.Errorf("issuing certificate %s: %w", l.Name, err)
		}
	}
	return nil
}

func issue(dir string, ca *x509.Certificate, caKey *ecdsa.PrivateKey, l Leaf) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificate(l.CommonName, l.Organization)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, h := range l.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	return write(dir, l.Name, der, key)
}

func certificate(commonName, organization string) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Hour), // clocks differ
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if organization != "" {
		c.Subject.Organization = []string{organization}
	}
	return c
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return new(big.Int).SetBytes(b)
}

func write(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, name+".crt"), 0o644, "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, name+".key"), 0o600, "EC PRIVATE KEY", secret)
}

func writePEM(file string, mode fs.FileMode, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

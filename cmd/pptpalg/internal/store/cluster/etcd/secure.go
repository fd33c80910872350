package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Files are what proves who is who. Each is read again for each connection, so that new ones
// count without a restart.
type Files struct {
	Cert, Key string // of this gateway
	CA        string // who vouches for the servers
}

var (
	errFiles    = errors.New("a certificate, its key and a CA are needed, all three, or insecure connections must be allowed")
	errInsecure = errors.New("insecure connections are allowed, but there are TLS files: choose one")
	errNoPEM    = errors.New("no certificate in PEM form")
)

// secure returns how connections are made, nil without TLS.
func (f Files) secure(insecure bool) (*tls.Config, error) {
	switch {
	case f == Files{} && insecure:
		return nil, nil
	case insecure:
		return nil, errInsecure
	case f.Cert == "" || f.Key == "" || f.CA == "":
		return nil, errFiles
	}
	if _, err := f.certificate(nil); err != nil {
		return nil, err
	}
	if _, err := f.roots(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: f.certificate,
		InsecureSkipVerify:   true, // by the library: VerifyConnection does it, with the CA as it is now
		VerifyConnection:     f.verify,
	}, nil
}

func (f Files) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &c, nil
}

func (f Files) roots() (*x509.CertPool, error) {
	b, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read CA %s: %w", f.CA, errNoPEM)
	}
	return pool, nil
}

// verify is what crypto/tls does for a server, with the CA as it is now.
func (f Files) verify(c tls.ConnectionState) error {
	roots, err := f.roots()
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, cert := range c.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err = c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: c.ServerName})
	return err
}

//go:build !nocluster

package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

var (
	errFiles    = errors.New("a certificate, its key and a CA are required, or insecure connections must be allowed")
	errInsecure = errors.New("insecure connections are allowed, but TLS files are given: choose one of the two")
	errNoPEM    = errors.New("no certificate in PEM form")
)

// secure returns how connections are made, nil without TLS.
func (f Files) secure(insecure bool) (credentials.TransportCredentials, error) {
	switch {
	case f == Files{} && insecure:
		return nil, nil
	case insecure:
		return nil, errInsecure
	case f.Cert == "" || f.Key == "" || f.CA == "":
		return nil, errFiles
	}
	c, err := f.config()
	if err != nil {
		return nil, err
	}
	return fresh{credentials.NewTLS(c), f}, nil
}

// config is of the files as they are.
func (f Files) config() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, RootCAs: roots}, nil
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

// fresh has the files read for each connection.
type fresh struct {
	credentials.TransportCredentials
	files Files
}

// ClientHandshake takes a server whose certificate is for the authority, a host with its port.
func (c fresh) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := c.files.config()
	if err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

func (c fresh) Clone() credentials.TransportCredentials {
	return fresh{c.TransportCredentials.Clone(), c.files}
}

package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
)

func TestReady(t *testing.T) {
	tests := []struct {
		name   string
		ready  func(time.Time) error
		status int
		body   string
	}{
		{"nobody says", nil, http.StatusOK, "ready\n"},
		{"ready", func(time.Time) error { return nil }, http.StatusOK, "ready\n"},
		{"not yet", func(time.Time) error { return errors.New("starting") }, http.StatusServiceUnavailable, "starting\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), Ready: tt.ready})
			status, body := get(t, "http://"+s.MetricsAddr().String()+"/-/ready")
			if status != tt.status || body != tt.body {
				t.Errorf("answers %d %q, want %d %q", status, body, tt.status, tt.body)
			}
		})
	}
}

// users lets alice in, whose password is "secret".
const users = "basic_auth_users:\n  alice: $2a$04$G9yT2drSAwdN5Tzp2fm/Ru8OLP8/fbHeCyDky8.P0rNbFB.ZSuMtm\n"

const useTLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"

// TestWebConfig asks for each page with and without the password, over TLS and not.
func TestWebConfig(t *testing.T) {
	tests := []struct {
		name, config, scheme, password string
		status                         int // 0 if there is no answer
	}{
		{"password", users, "http", "secret", http.StatusOK},
		{"wrong password", users, "http", "Secret", http.StatusUnauthorized},
		{"no password", users, "http", "", http.StatusUnauthorized},
		{"TLS", useTLS, "https", "", http.StatusOK},
		{"TLS, asked without", useTLS, "http", "", http.StatusBadRequest},
		{"both", useTLS + users, "https", "secret", http.StatusOK},
		{"both, no password", useTLS + users, "https", "", http.StatusUnauthorized},
		{"neither", "{}", "http", "", http.StatusOK},
		{"neither, asked by TLS", "{}", "https", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, roots := webConfig(t, tt.config)
			s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), WebConfig: path})
			client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
			for _, page := range []string{"/metrics", "/-/healthy", "/-/ready"} {
				got := status(t, &client, tt.scheme+"://"+s.MetricsAddr().String()+page, tt.password)
				if got != tt.status {
					t.Errorf("%s answers %d, want %d", page, got, tt.status)
				}
			}
		})
	}
}

// TestSocketNeedsNoPassword: its mode guards it.
func TestSocketNeedsNoPassword(t *testing.T) {
	path, _ := webConfig(t, useTLS+users)
	dir := t.TempDir()
	s, err := Listen(Config{Listen: "127.0.0.1:0", StateDir: dir, WebConfig: path}, prometheus.NewRegistry(), func() []calls.View { return make([]calls.View, 1) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if all, err := (Client{StateDir: dir}).Calls(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d calls, %v", len(all), err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWebConfigIsRefused(t *testing.T) {
	tests := []struct{ name, config, want string }{
		{"unknown key", "basic_auth_user: {}\n", "basic_auth_user"},
		{"no hash", "basic_auth_users: {alice: secret}\n", "bcrypt"},
		{"no certificate", "tls_server_config: {cert_file: none.pem, key_file: none.pem}\n", "none.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, _ := webConfig(t, tt.config)
			_, err := Listen(Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), WebConfig: path}, prometheus.NewRegistry(), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("the error is %v, want %s and the file in it", err, tt.want)
			}
		})
	}
	if _, err := Listen(Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), WebConfig: "/nowhere"}, prometheus.NewRegistry(), nil); err == nil {
		t.Error("a file that is not there is taken")
	}
}

// webConfig writes a configuration, with a certificate of 127.0.0.1 beside it.
func webConfig(t *testing.T, text string) (path string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	for name, b := range map[string][]byte{
		"web.yml": []byte(text), "cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return filepath.Join(dir, "web.yml"), roots
}

// status asks, as alice if there is a password. It returns 0 if there is no answer.
func status(t *testing.T, client *http.Client, url, password string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if password != "" {
		req.SetBasicAuth("alice", password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

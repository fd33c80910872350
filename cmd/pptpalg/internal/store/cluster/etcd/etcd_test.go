//go:build !nocluster

package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]Target{
		"etcd://10.0.0.1:2379":           {[]string{"10.0.0.1:2379"}, "/pptpalg/1/"},
		"etcd://a:2379,[::1]:2379,c:1/":  {[]string{"a:2379", "[::1]:2379", "c:1"}, "/pptpalg/1/"},
		"etcd://a:2379/site/north":       {[]string{"a:2379"}, "/site/north/1/"},
		"etcd://":                        {},
		"etcd://a":                       {},
		"etcd://a:2379,":                 {},
		"etcd://:2379":                   {},
		"http://a:2379":                  {},
		"etcd://[::1:2379":               {},
		"etcd://a:2379,etcd://b:2379/p1": {},
	} {
		got, err := ParseTarget(s)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want.Prefix != "") {
			t.Errorf("%s: %v (-want +got):\n%s", s, err, diff)
		}
	}
}

// TestInsecure: plain HTTP must be asked for, and nothing else with it.
func TestInsecure(t *testing.T) {
	target := Target{Endpoints: []string{clientAddr}, Prefix: "/p/1/"}
	for _, cfg := range []Config{
		{Target: target},
		{Target: target, Files: Files{CA: "ca"}},
		{Target: target, Insecure: true, Files: Files{CA: "ca"}},
		{Target: target, Files: Files{"no", "such", "file"}},
	} {
		if s, err := Open(cfg); err == nil {
			t.Errorf("%+v is opened", cfg)
			_ = s.Close()
		}
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

// files writes a certificate of a name and an address for both ends of a connection, and the
// authority's own.
func (a *authority) files(dir, name, address string) Files {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.ParseIP(address)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	f := Files{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key"), CA: filepath.Join(dir, name+".ca")}
	for path, block := range map[string]*pem.Block{
		f.Cert: {Type: "CERTIFICATE", Bytes: cert.Raw}, f.Key: {Type: "EC PRIVATE KEY", Bytes: der}, f.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return f
}

// TestServerOfAnotherAddress: a certificate says for which address it is. Whoever else has one of
// the same authority, as each gateway does, is not taken for the server.
func TestServerOfAnotherAddress(t *testing.T) {
	dir, ours := t.TempDir(), newAuthority(t)
	f := ours.files(dir, "server", "192.0.2.1")
	s := serveTLS(t, f)
	cfg := s.config()
	cfg.Insecure, cfg.Files = false, ours.files(dir, "gateway", "127.0.0.1")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := s.open(cfg).Commit(ctx, puts(put(key(1), "x"))); err == nil {
		t.Error("a server is taken whose certificate is for another address")
	}
}

func serveTLS(t *testing.T, f Files) *server {
	t.Helper()
	return serve(t, "--listen-client-urls", "https://"+clientAddr, "--advertise-client-urls", "https://"+clientAddr,
		"--cert-file", f.Cert, "--key-file", f.Key, "--trusted-ca-file", f.CA, "--client-cert-auth")
}

// TestTLS: a server that nobody vouches for is refused, a client, too, and files that have
// changed count with the next connection.
func TestTLS(t *testing.T) {
	dir, ours, theirs := t.TempDir(), newAuthority(t), newAuthority(t)
	s := serveTLS(t, ours.files(dir, "server", "127.0.0.1"))
	try := func(files Files, within time.Duration) error {
		cfg := s.config()
		cfg.Insecure, cfg.Files = false, files
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		_, err := s.open(cfg).Commit(ctx, puts(put(key(1), "x")))
		return err
	}
	good := ours.files(dir, "gateway", "127.0.0.1")
	if err := try(good, time.Minute); err != nil {
		t.Error(err)
	}
	stranger := theirs.files(dir, "stranger", "127.0.0.1")
	if err := try(stranger, time.Second); err == nil {
		t.Error("a server of another authority is taken")
	}
	if err := try(Files{Cert: stranger.Cert, Key: stranger.Key, CA: good.CA}, time.Second); err == nil {
		t.Error("the server takes a client of another authority")
	}
	cfg := s.config()
	cfg.Insecure, cfg.Files = false, stranger
	store := s.open(cfg)
	for from, to := range map[string]string{good.Cert: stranger.Cert, good.Key: stranger.Key, good.CA: stranger.CA} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Commit(ctx(t), puts(put(key(1), "y"))); err != nil {
		t.Errorf("with new files: %v", err)
	}
}

// TestLeases: what is over within ten seconds gets one lease, and a lease that the store has
// lost is not used again.
func TestLeases(t *testing.T) {
	s := serve(t)
	store := s.open(s.config())
	for n := range 20 {
		commit(t, store, puts(state.Put{Key: key(n), Value: []byte("x"), Keep: 2 * time.Minute}))
	}
	all, err := store.client.Leases(ctx(t))
	if err != nil || len(all.Leases) > 10 { // ten seconds may end meanwhile
		t.Fatalf("%d leases, %v", len(all.Leases), err)
	}
	left, err := store.client.TimeToLive(ctx(t), all.Leases[0].ID)
	if err != nil || left.GrantedTTL != 130 {
		t.Errorf("%d s, %v", left.GrantedTTL, err)
	}
	for _, l := range all.Leases {
		if _, err := store.client.Revoke(ctx(t), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, store, puts(state.Put{Key: key(1), Value: []byte("y"), Keep: 2 * time.Minute}))
	if got, _ := now(t, store); !maps.Equal(got, map[string]string{key(1): "y"}) {
		t.Errorf("%v", got)
	}
}

// TestHeldNoMore: a lease that etcd has lost is told of.
func TestHeldNoMore(t *testing.T) {
	s := serve(t)
	store := s.open(s.config())
	h, err := store.Hold(ctx(t), puts(put("gw/0", "x")), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.client.Revoke(ctx(t), h.(*held).id); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.Lost():
	case <-ctx(t).Done():
		t.Error("never")
	}
}

// none is a journal that remembers nothing.
type none struct{}

func (none) Append([]calls.Event, time.Time) error         { return nil }
func (none) Rewrite([]calls.Record, []calls.Resting) error { return nil }
func (none) Overgrown() bool                               { return false }
func (none) Whole() bool                                   { return true }
func (none) Close() error                                  { return nil }

func record(public string, number uint64) calls.Record {
	n := byte(number)
	server := netip.MustParseAddrPort("203.0.113.9:1723")
	return calls.Record{
		Number: number, State: calls.Established, Since: time.Unix(1_800_000_000, 0),
		Connection: calls.Connection{
			Original: calls.Tuple{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 4000), Dst: server},
			Reply:    calls.Tuple{Src: server, Dst: netip.AddrPortFrom(netip.MustParseAddr(public), 4000)},
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 256 + 7}, {Known: true, Own: 9, Public: 9}},
	}
}

// gateway runs a whole store over etcd, and tells what others' calls it has.
func gateway(t *testing.T, s *server, name, public string) (store *cluster.Store, followed func() []uint64) {
	t.Helper()
	batches := make(chan cluster.Batch, 1000)
	member := state.Member{Name: name, Life: uint64(time.Now().UnixNano())}
	store = cluster.New(none{}, s.open(s.config()), cluster.Config{Member: member, Rest: time.Minute, Apply: func(b cluster.Batch) { batches <- b }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, store.Close()); err != nil {
			t.Error(err)
		}
	})
	until(t, store, "is up", func() bool { st := store.Status(); return st.Joined && st.Loaded })
	store.Claim(netip.MustParseAddr(public))
	repair(t, store, "lacks what it may know of before", nil)
	all := map[uint64]bool{}
	return store, func() []uint64 {
		for len(batches) > 0 {
			for _, c := range (<-batches).Changes {
				switch c.Kind {
				case state.Kept:
					all[c.Call.Record.Number] = true
				case state.Gone:
					delete(all, c.Call.Record.Number)
				}
			}
		}
		return slices.Sorted(maps.Keys(all))
	}
}

// repair has the store write all that it lacks, as soon as it knows that it does.
func repair(t *testing.T, store *cluster.Store, what string, own []calls.Record) {
	t.Helper()
	var r *cluster.Repair
	until(t, store, what, func() bool { r = store.Repair(); return r != nil })
	end(r, own)
}

func end(r *cluster.Repair, own []calls.Record) {
	r.Have(own, time.Now())
	r.End(nil, func(netip.Addr) bool { return true }, time.Now())
}

func until(t *testing.T, store *cluster.Store, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s; %+v", what, store.Status())
		}
	}
}

// TestGateways: two gateways go on while etcd is killed, comes back, and comes back empty.
func TestGateways(t *testing.T) {
	s := serve(t)
	a, ofB := gateway(t, s, "a", "198.51.100.1")
	b, ofA := gateway(t, s, "b", "198.51.100.2")
	append := func(store *cluster.Store, public string, number uint64) {
		if err := store.Append([]calls.Event{{Kind: calls.SetUp, Call: record(public, number)}}, time.Now()); err != nil {
			t.Error(err)
		}
	}
	both := func(what string, of ...uint64) {
		t.Helper()
		until(t, a, what, func() bool { return slices.Equal(ofB(), []uint64{100}) })
		until(t, b, what, func() bool { return slices.Equal(ofA(), of) })
	}
	append(a, "198.51.100.1", 1)
	append(b, "198.51.100.2", 100)
	both("follow", 1)

	s.stop(unix.SIGKILL)
	append(a, "198.51.100.1", 2)
	until(t, a, "is degraded", func() bool { return a.Status().Broken })
	append(a, "198.51.100.1", 3)
	s.start()
	both("follow what was set up meanwhile", 1, 2, 3)

	s.empty()
	reader := s.open(s.config())
	until(t, a, "etcd has all", func() bool {
		for store, own := range map[*cluster.Store][]calls.Record{
			a: {record("198.51.100.1", 1), record("198.51.100.1", 2), record("198.51.100.1", 3)}, b: {record("198.51.100.2", 100)},
		} {
			if r := store.Repair(); r != nil { // as an audit does
				end(r, own)
			}
		}
		all, _ := now(t, reader)
		return len(all) == 4+2+2+2
	})
	until(t, a, "is whole", func() bool { return a.Whole() && b.Whole() })
	both("have all as before", 1, 2, 3)
	if sa, sb := a.Status(), b.Status(); sa.Slot != 0 || sb.Slot != 1 {
		t.Errorf("slots %d and %d", sa.Slot, sb.Slot)
	}
}

//go:build !nocluster

package etcd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// roles is an etcd that knows who may do what by the names of certificates, as docs/SECURITY.md has
// it: root everything, gw-a and gw-b what a gateway needs; and reader less.
type roles struct {
	*server
	dir string
	ca  *authority
}

func serveRoles(t *testing.T) *roles {
	t.Helper()
	_, err := exec.LookPath("etcdctl")
	need(t, err == nil, "etcdctl is not there: Debian has it in etcd-client")
	r := &roles{dir: t.TempDir(), ca: newAuthority(t)}
	r.server = serveTLS(t, r.ca.files(r.dir, "server", "127.0.0.1"))
	if err := os.Rename(r.ca.files(r.dir, "root", "127.0.0.1").CA, filepath.Join(r.dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../../../../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("there are no passwords:\n\n"))
	commands, _, found := bytes.Cut(text, []byte("\n\n"))
	if !found {
		t.Fatal("docs/SECURITY.md does not say how a role is made")
	}
	r.etcdctl(string(commands) + "\netcdctl role add reading\netcdctl role grant-permission reading read --prefix /pptpalg/1/\n" +
		"etcdctl user add reader --no-password\netcdctl user grant-role reader reading")
	return r
}

// etcdctl carries out commands of the docs as root.
func (r *roles) etcdctl(commands string) {
	r.t.Helper()
	const root = "export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=10.77.0.2:2379 ETCDCTL_CACERT=ca.crt ETCDCTL_CERT=root.crt ETCDCTL_KEY=root.key\n"
	c := exec.Command("sh", "-ec", strings.ReplaceAll(root+commands, "10.77.0.2:2379", clientAddr))
	c.Dir = r.dir
	var out []byte
	err := r.place.Do(func() (err error) {
		out, err = c.CombinedOutput()
		return err
	})
	if err != nil {
		r.t.Fatalf("%s: %v: %s", commands, err, out)
	}
}

// as returns a store for who has a certificate of that name.
func (r *roles) as(name string) *Store {
	r.t.Helper()
	cfg := r.config()
	cfg.Insecure, cfg.Files = false, r.ca.files(r.dir, name, "127.0.0.1")
	return r.open(cfg)
}

// TestRights: what may be done is found out, and nothing is written.
func TestRights(t *testing.T) {
	r := serveRoles(t)
	for name, want := range map[string]string{
		"root": "read write elsewhere", "gw-a": "read write", "gw-b": "read write", "reader": "read", "stranger": "",
	} {
		got, err := r.as(name).Rights(ctx(t))
		var may []string
		for what, can := range map[string]bool{"read": got.Read == nil, "write": got.Write == nil, "elsewhere": got.Elsewhere} {
			if can && err == nil {
				may = append(may, what)
			}
		}
		if len(may) != len(strings.Fields(want)) || err != nil {
			t.Errorf("%s may %v, want %s: %v; %+v", name, may, want, err, got)
		}
	}
	all, err := r.as("root").client.Get(ctx(t), "\x00", clientv3.WithFromKey())
	if err != nil || len(all.Kvs) > 0 {
		t.Errorf("there are %v, %v", all, err)
	}
	b := r.as("gw-b")
	commit(t, b, puts(put(key(1), "x")))
	r.etcdctl("etcdctl user delete gw-b")
	if _, err := b.Commit(ctx(t), puts(put(key(1), "y"))); err == nil {
		t.Error("a gateway that was taken its rights may still write")
	}
}

// TestAsk: who does not answer is told, and a quota that is used up.
func TestAsk(t *testing.T) {
	s := serve(t, "--listen-client-urls", "http://"+clientAddr, "--advertise-client-urls", "http://"+clientAddr, "--quota-backend-bytes", "65536")
	cfg := s.config()
	cfg.Target.Endpoints = append(cfg.Target.Endpoints, "127.0.0.1:1")
	store := s.open(cfg)
	one := s.open(s.config())
	now(t, one) // it serves by now
	told := func() string {
		var all []string
		h := store.Ask(ctx(t), 2*time.Second)
		for _, e := range h.Endpoints {
			all = append(all, fmt.Sprint(e.Name, " ", e.Err == nil, " ", e.Leader, " ", e.Full))
		}
		return fmt.Sprint(h.Voters, " ", strings.Join(all, "; "))
	}
	if diff := cmp.Diff("1 http://127.0.0.1:2379 true true false; http://127.0.0.1:1 false false false", told()); diff != "" {
		t.Error(diff)
	}
	took, err := one.Time(ctx(t), "a", 20)
	if len(took) != 20 || err != nil {
		t.Errorf("%v, %v", took, err)
	}
	if all, _ := now(t, one); len(all) > 0 {
		t.Errorf("a trial leaves %v", all)
	}
	commit(t, one, puts(put(key(1), "x"), put(key(2), "x"), put(state.SlotKey(0), "a")))
	if n, err := one.Count(ctx(t)); n != 2 || err != nil {
		t.Errorf("%d calls, %v", n, err)
	}
	for n := 0; err == nil; n++ {
		_, err = one.Commit(ctx(t), puts(put(key(n), strings.Repeat("x", 4096))))
	}
	if diff := cmp.Diff("1 http://127.0.0.1:2379 true true true; http://127.0.0.1:1 false false false", told()); diff != "" {
		t.Error(diff)
	}
	s.stop(unix.SIGKILL)
	if diff := cmp.Diff("0 http://127.0.0.1:2379 false false false; http://127.0.0.1:1 false false false", told()); diff != "" {
		t.Error(diff)
	}
}

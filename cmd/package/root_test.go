package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
)

// release is the Debian that the package is installed on: the oldest that is supported.
const release = "bookworm"

// dependencies are what the package needs beyond Debian's essential packages, and logrotate.
const dependencies = "iptables,logrotate,procps,systemd"

// root is a Debian system in a directory, on a gateway of its own.
type root struct {
	*lab.Network
	t   *testing.T
	dir string
}

// newRoot unpacks a clean system that believes to be run by systemd, and makes a
// network for it.
func newRoot(t *testing.T) *root {
	t.Helper()
	needRoot(t)
	r := &root{t: t, dir: t.TempDir()}
	_, err := output(exec.CommandContext(t.Context(), "tar", "-xf", cleanSystem(t), "-C", r.dir))
	must(t, err)
	must(t, os.MkdirAll(r.path("/run/systemd/system"), 0o755))
	must(t, os.MkdirAll(r.path("/run/stand-in"), 0o755))
	systemctl, err := os.ReadFile("testdata/systemctl")
	must(t, err)
	must(t, os.WriteFile(r.path("/usr/local/sbin/systemctl"), systemctl, 0o755))
	r.Network, err = lab.New(lab.Options{Inside: 1, Outside: 1, Masquerade: true, Firewall: true})
	must(t, err)
	t.Cleanup(func() { must(t, r.Network.Close()) })
	return r
}

// cleanSystem returns a tar of Debian's essential packages and the dependencies, made
// by the first run on a machine and kept.
func cleanSystem(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "pptpalg")
	must(t, os.MkdirAll(cache, 0o755))
	name := filepath.Join(cache, strings.Join([]string{release, runtime.GOARCH, strings.ReplaceAll(dependencies, ",", "+")}, "_")+".tar")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	part := filepath.Join(t.TempDir(), "part.tar")
	_, err = output(exec.CommandContext(ctx, "mmdebstrap", "--variant=essential", "--include="+dependencies, release, part))
	must(t, err)
	_, err = output(exec.CommandContext(ctx, "mv", part, name)) // between file systems, too
	must(t, err)
	return name
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

// run runs a command in the system, as its root, on the gateway.
func (r *root) run(args ...string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	const enter = `mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && exec chroot "$0" "$@"`
	cmd, err := r.Gateway.Command(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", enter, r.dir}, args...)...)
	must(r.t, err)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	log := new(lab.Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := r.Gateway.Start(cmd)
	must(r.t, err)
	err = p.Wait(time.Minute)
	return log.String(), err
}

func (r *root) mustRun(args ...string) string {
	r.t.Helper()
	out, err := r.run(args...)
	if err != nil {
		r.t.Fatalf("%q: %v: %s\nthe daemon: %s", args, err, out, r.read("/run/stand-in/log"))
	}
	return out
}

// read returns what is in a file, nothing if it is not there.
func (r *root) read(name string) string {
	b, _ := os.ReadFile(r.path(name))
	return string(b)
}

// files are the names of all there is, but for what every installation writes.
func (r *root) files() map[string]bool {
	r.t.Helper()
	names := make(map[string]bool)
	must(r.t, filepath.WalkDir(r.dir, func(name string, d fs.DirEntry, err error) error {
		name = strings.TrimPrefix(name, r.dir)
		switch name {
		case "/proc", "/var/lib/dpkg", "/var/log", "/run/systemd", "/run/stand-in", "/tmp":
			return fs.SkipDir
		}
		names[name] = true
		return err
	}))
	return names
}

// put copies a file into the system's /tmp and returns its name there.
func (r *root) put(file string) string {
	r.t.Helper()
	b, err := os.ReadFile(file)
	must(r.t, err)
	name := "/tmp/" + filepath.Base(file)
	must(r.t, os.WriteFile(r.path(name), b, 0o644))
	return name
}

func needRoot(t *testing.T) {
	t.Helper()
	err := lab.Need("iptables", "ip", "mmdebstrap", "tar", "unshare", "chroot")
	if os.Geteuid() != 0 {
		err = errors.New("needs root to make network namespaces")
	}
	if err == nil {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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

// dependencies are what the package needs beyond Debian's essential packages, logrotate, and apt.
const dependencies = "apt,iptables,logrotate,procps,systemd"

// enough is how long a command may take on a busy machine.
const enough = 3 * time.Minute

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
	r := bareRoot(t, dependencies)
	r.standIn()
	return r
}

// standIn has the system believe that systemd runs it.
func (r *root) standIn() {
	r.t.Helper()
	must(r.t, os.MkdirAll(r.path("/run/systemd/system"), 0o755))
	must(r.t, os.MkdirAll(r.path("/run/stand-in"), 0o755))
	systemctl, err := os.ReadFile("testdata/systemctl")
	must(r.t, err)
	must(r.t, os.WriteFile(r.path("/usr/local/sbin/systemctl"), systemctl, 0o755))
}

// bareRoot is newRoot without anything that runs services.
func bareRoot(t *testing.T, packages string) *root {
	t.Helper()
	needRoot(t)
	r := &root{t: t, dir: t.TempDir()}
	_, err := output(exec.CommandContext(t.Context(), "tar", "-xf", cleanSystem(t, packages), "-C", r.dir))
	must(t, err)
	r.Network, err = lab.New(lab.Options{Inside: 1, Outside: 1, Masquerade: true, Firewall: true})
	must(t, err)
	t.Cleanup(func() { must(t, r.Network.Close()) })
	return r
}

// cleanSystem returns a tar of Debian's essential packages and others, made by the first
// run on a machine and kept.
func cleanSystem(t *testing.T, packages string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "pptpalg")
	must(t, os.MkdirAll(cache, 0o755))
	name := filepath.Join(cache, strings.Join([]string{release, runtime.GOARCH, strings.ReplaceAll(packages, ",", "+")}, "_")+".tar")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	part := filepath.Join(t.TempDir(), "part.tar")
	_, err = output(exec.CommandContext(ctx, "mmdebstrap", "--variant=essential", "--include="+packages, release, part))
	must(t, err)
	_, err = output(exec.CommandContext(ctx, "mv", part, name)) // between file systems, too
	must(t, err)
	return name
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

// run runs a command in the system, as its root, on the gateway.
func (r *root) run(args ...string) (string, error) {
	r.t.Helper()
	return r.runBy(`exec chroot "$0" "$@"`, args...)
}

// runOutside runs a command of this machine on the gateway: one that is told where the
// system is.
func (r *root) runOutside(args ...string) (string, error) {
	r.t.Helper()
	return r.runBy(`exec "$@"`, args...)
}

func (r *root) runBy(way string, args ...string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), enough)
	defer cancel()
	const mounts = `mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && `
	cmd, err := r.Gateway.Command(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", mounts + way, r.dir}, args...)...)
	must(r.t, err)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	log := new(lab.Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := r.Gateway.Start(cmd)
	must(r.t, err)
	err = p.Wait(enough)
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
		case "/proc", "/var/lib/dpkg", "/var/log", "/var/cache/apt", "/var/lib/apt/lists", "/run/systemd", "/run/stand-in", "/tmp":
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

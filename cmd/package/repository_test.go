package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// releasedDir is what make release has made.
var releasedDir = flag.String("released", "", "directory of a release that TestReleased has apt install from")

// TestReleased has apt install what make release has made.
func TestReleased(t *testing.T) {
	if *releasedDir == "" {
		return
	}
	r := newRoot(t)
	wantSigned(t, *releasedDir)
	r.subscribe(*releasedDir)
	r.mustRun("apt-get", "update")
	r.mustRun("apt-get", "install", "-y", "pptpalg")
	version := r.mustRun("dpkg-query", "-W", "-f", "${Version}", "pptpalg")
	r.wantRunning(version)
	r.mustRun("apt-get", "purge", "-y", "pptpalg")
	t.Logf("apt installs %s", version)
}

// TestRelease makes two releases with a key of its own, has apt install the first and
// upgrade to the second, and refuse what nobody has signed. It runs by make release only.
func TestRelease(t *testing.T) {
	if *releasedDir == "" {
		return
	}
	needProgram(t, "apt-ftparchive")
	needProgram(t, "gpg")
	r := newRoot(t)
	dir, key := t.TempDir(), newKey(t)
	before := r.files()

	publish(t, dir, key, packed(t, "1.0.0", "deb"), packed(t, "1.0.0", "rpm"))
	wantSigned(t, dir)
	r.subscribe(dir)
	r.mustRun("apt-get", "update")
	r.mustRun("apt-get", "install", "-y", "pptpalg")
	r.wantRunning("1.0.0")

	publish(t, dir, key, packed(t, "1.0.1", "deb"))
	r.subscribe(dir)
	r.mustRun("apt-get", "update")
	r.mustRun("apt-get", "upgrade", "-y")
	r.wantRunning("1.0.1")
	r.mustRun("apt-get", "purge", "-y", "pptpalg")
	r.mustRun("apt-get", "install", "-y", "pptpalg=1.0.0") // the pool keeps it
	r.mustRun("apt-get", "purge", "-y", "pptpalg")
	r.unsubscribe()
	r.wantNothingLeft(before)

	r.wantRefused(dir)
}

// publish puts packages into a directory, and makes a release of it.
func publish(t *testing.T, dir, key string, packages ...string) {
	t.Helper()
	for _, name := range packages {
		copyFile(t, name, filepath.Join(dir, filepath.Base(name)))
	}
	must(t, repository{dir: dir, key: key}.publish(t.Context()))
}

// newKey makes a key, in a directory of its own, and returns its name.
func newKey(t *testing.T) string {
	t.Helper()
	// The agent's socket is there, and its name must be short.
	home, err := os.MkdirTemp("", "gpg")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("GNUPGHOME", home)
	const name = "pptpalg test <test@pptpalg.example>"
	_, err = output(exec.CommandContext(t.Context(), "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", "1d"))
	must(t, err)
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").Run() }) // before its directory goes
	return name
}

// wantSigned has the tools of those who fetch packages by hand check them.
func wantSigned(t *testing.T, dir string) {
	t.Helper()
	sums := filepath.Join(dir, "SHA256SUMS")
	_, err := output(exec.CommandContext(t.Context(), "gpgv", "--keyring", filepath.Join(dir, keyring), sums+".asc", sums))
	must(t, err)
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS")
	check.Dir = dir
	_, err = output(check)
	must(t, err)
}

// subscribe does what deploy/README.md says, and leaves apt no other source.
func (r *root) subscribe(dir string) {
	r.t.Helper()
	r.unsubscribe()
	_, err := output(exec.CommandContext(r.t.Context(), "cp", "-r", filepath.Join(dir, "apt"), r.path("/srv/apt")))
	must(r.t, err)
	must(r.t, os.MkdirAll(r.path("/etc/apt/keyrings"), 0o755))
	copyFile(r.t, filepath.Join(dir, keyring), r.path("/etc/apt/keyrings/pptpalg.gpg"))
	must(r.t, os.WriteFile(r.path(source), []byte("deb [signed-by=/etc/apt/keyrings/pptpalg.gpg] file:/srv/apt stable main\n"), 0o644))
	must(r.t, os.WriteFile(r.path("/etc/apt/sources.list"), nil, 0o644))
	// apt has a search path of its own, in which the stand-in for systemctl is not, and what it
	// starts ends with its terminal.
	must(r.t, os.WriteFile(r.path(aptSettings), []byte("DPkg::Path \"/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin\";\nDPkg::Use-Pty \"0\";\n"), 0o644))
}

const (
	source      = "/etc/apt/sources.list.d/pptpalg.list"
	aptSettings = "/etc/apt/apt.conf.d/stand-in"
)

// unsubscribe takes away what subscribe and apt have written.
func (r *root) unsubscribe() {
	r.t.Helper()
	for _, name := range []string{"/srv/apt", "/etc/apt/keyrings/pptpalg.gpg", source, aptSettings} {
		must(r.t, os.RemoveAll(r.path(name)))
	}
	lists, err := filepath.Glob(r.path("/var/lib/apt/lists/*_*"))
	must(r.t, err)
	for _, name := range lists {
		must(r.t, os.Remove(name))
	}
}

// wantRefused spoils a release in all places.
func (r *root) wantRefused(dir string) {
	r.t.Helper()
	deb := "/srv/apt/" + pool + "/" + filepath.Base(packed(r.t, "1.0.1", "deb"))
	list := "/srv/apt/dists/stable/main/binary-" + runtime.GOARCH + "/Packages"
	tests := []struct {
		name  string
		spoil func()
		want  string
	}{
		{"nothing", func() {}, ""},
		{"the package", func() { r.edit(deb, "debian-binary", "debian-binarx") }, "Hash Sum mismatch"},
		{"the list of packages", func() {
			must(r.t, os.Remove(r.path(list+".gz")))
			r.edit(list, "Version: 1.0.1", "Version: 1.0.2")
		}, "Hash Sum mismatch"},
		{"the list of lists", func() { r.edit("/srv/apt/dists/stable/InRelease", "Label: pptpalg", "Label: another") }, "signature"},
		{"the key", func() {
			publish(r.t, dir, newKey(r.t))
			copyFile(r.t, filepath.Join(dir, keyring), r.path("/etc/apt/keyrings/pptpalg.gpg"))
		}, "NO_PUBKEY"},
	}
	for _, tt := range tests {
		r.subscribe(dir)
		tt.spoil()
		out, err := r.run("sh", "-c", "apt-get update && apt-get install -y --download-only pptpalg=1.0.1")
		if (err == nil) != (tt.want == "") || !strings.Contains(out, tt.want) {
			r.t.Errorf("apt with %s spoilt: %v, want %q: %s", tt.name, err, tt.want, out)
		}
	}
}

// edit replaces a text in a file of the system.
func (r *root) edit(name, old, text string) {
	r.t.Helper()
	b := r.read(name)
	if !strings.Contains(b, old) {
		r.t.Fatalf("no %q in %s", old, name)
	}
	must(r.t, os.WriteFile(r.path(name), []byte(strings.Replace(b, old, text, 1)), 0o644))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o644))
}

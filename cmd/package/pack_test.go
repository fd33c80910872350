package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

var someTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// stages are what is generated for each version. Tests have it in common: making it
// takes seconds.
var stages = make(map[string]*packing)

// packages are those that were packed, by version and format.
var packages = make(map[string]string)

func TestMain(m *testing.M) {
	code := m.Run()
	for _, p := range stages {
		os.RemoveAll(p.stage)
		os.RemoveAll(p.stage + ".packages")
	}
	os.Exit(code)
}

// staged generates what a version's packages need, the first time.
func staged(t *testing.T, version string) *packing {
	t.Helper()
	if p := stages[version]; p != nil {
		return p
	}
	dir, err := os.MkdirTemp("", "pptpalg-stage")
	must(t, err)
	p := &packing{root: "../..", stage: dir, arch: runtime.GOARCH, version: version, maintainer: maintainer, at: someTime}
	must(t, p.generate(t.Context()))
	stages[version] = p
	return p
}

// packed builds a package, the first time, and returns its file.
func packed(t *testing.T, version, format string) string {
	t.Helper()
	if name := packages[version+format]; name != "" {
		return name
	}
	p := staged(t, version)
	name, err := p.pack(t.Context(), format, p.stage+".packages")
	must(t, err)
	packages[version+format] = name
	return name
}

// TestSameSourceSamePackage generates and packs in another directory.
func TestSameSourceSamePackage(t *testing.T) {
	again := *staged(t, "1.0.0")
	again.stage = t.TempDir()
	must(t, again.generate(t.Context()))
	for format := range formats {
		name, err := again.pack(t.Context(), format, t.TempDir())
		must(t, err)
		a, err := os.ReadFile(packed(t, "1.0.0", format))
		must(t, err)
		b, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("two builds of the %s differ", format)
		}
	}
}

// TestRPM has rpm read what there is in the package.
func TestRPM(t *testing.T) {
	needProgram(t, "rpm")
	out, err := output(exec.CommandContext(t.Context(), "rpm", "-qp", "--scripts", "--requires", "--qf", "[%{filenames} %{filemodes:octal} %{fileflags:fflags} %{fileusername}\n]", packed(t, "1.0.0", "rpm")))
	must(t, err)
	for _, want := range []string{
		"/usr/sbin/pptpalg 100755  root", "/etc/pptpalg/pptpalg.yaml 100644 cn root", "/etc/default/pptpalg 100644 cn root",
		"/usr/lib/systemd/system/pptpalg.service 100644", "/usr/share/zsh/site-functions/_pptpalg", "/usr/share/man/man8/pptpalg-run.8.gz",
		"systemctl --no-reload preset", "disable --now", "try-restart",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	for _, not := range []string{"/usr/share/zsh/vendor-completions", "/usr/sbin 40755", "deb-systemd", "\niptables\n", "\nnftables\n"} {
		if strings.Contains(string(out), not) {
			t.Errorf("%q in:\n%s", not, out)
		}
	}
}

func TestFileName(t *testing.T) {
	tests := []struct{ format, arch, want string }{
		{"deb", "amd64", "pptpalg_1.2.3~rc1_amd64.deb"},
		{"deb", "armv7", "pptpalg_1.2.3~rc1_armhf.deb"},
		{"rpm", "amd64", "pptpalg-1.2.3~rc1-1.x86_64.rpm"},
		{"rpm", "arm64", "pptpalg-1.2.3~rc1-1.aarch64.rpm"},
		{"rpm", "riscv64", "pptpalg-1.2.3~rc1-1.riscv64.rpm"},
		{"apk", "armv7", "pptpalg-1.2.3_rc1-r0_armv7.apk"},
		{"archlinux", "armv7", "pptpalg-1.2.3rc1-1-armv7h.pkg.tar.zst"},
		{"ipk", "mipsle", "pptpalg_1.2.3~rc1_mipsel.ipk"},
	}
	for _, tt := range tests {
		if got := formats[tt.format].file("1.2.3~rc1", tt.arch); got != tt.want {
			t.Errorf("%s for %s is %s, want %s", tt.format, tt.arch, got, tt.want)
		}
	}
}

// needProgram is needRoot for tests that need no root.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatalf("find %s: not installed", name)
	}
	t.Skipf("find %s: not installed", name)
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPacman has pacman read what there is in Arch's package.
func TestPacman(t *testing.T) {
	needProgram(t, "pacman")
	name, db := packed(t, "1.0.0", "archlinux"), t.TempDir()
	out, err := output(exec.CommandContext(t.Context(), "pacman", "--config", "/dev/null", "--dbpath", db, "-Qilp", name))
	must(t, err)
	wantWords(t, string(out), []string{
		": pptpalg\n", ": 1.0.0-1\n", ": x86_64\n", "Depends On      : systemd\n", "pptpalg /usr/sbin/pptpalg\n", "pptpalg /usr/lib/systemd/system/pptpalg.service\n",
		"pptpalg /usr/share/zsh/site-functions/_pptpalg\n", "pptpalg /etc/pptpalg/pptpalg.yaml\n",
	}, []string{"vendor-completions", "/usr/local"})
	script, err := output(exec.CommandContext(t.Context(), "tar", "--zstd", "-xOf", name, ".INSTALL"))
	must(t, err)
	wantWords(t, string(script), []string{"post_install()", "systemd-sysusers", "post_upgrade()", "try-restart", "pre_remove()", "disable --now"}, nil)
}

// TestAPK reads Alpine's package, which is a few tar files one after the other.
func TestAPK(t *testing.T) {
	name := packed(t, "1.0.0", "apk")
	list, err := output(exec.CommandContext(t.Context(), "tar", "-tvzf", name))
	must(t, err)
	wantWords(t, string(list), []string{
		".PKGINFO\n", ".pre-install\n", ".post-install\n", ".pre-upgrade\n", ".post-upgrade\n", ".pre-deinstall\n",
		" etc/init.d/pptpalg\n", " etc/conf.d/pptpalg\n", " usr/sbin/pptpalg\n", " usr/share/man/man8/pptpalg.8.gz\n",
	}, []string{"systemd"})
	info, err := output(exec.CommandContext(t.Context(), "tar", "-xzOf", name, ".PKGINFO"))
	must(t, err)
	wantWords(t, string(info), []string{"pkgver = 1.0.0-r0\n", "depend = openrc\n", "arch = x86_64\n"}, nil)
}

// TestIPK reads OpenWrt's package, which is tar files in a tar file.
func TestIPK(t *testing.T) {
	dir := t.TempDir()
	_, err := output(exec.CommandContext(t.Context(), "tar", "-xzf", packed(t, "1.0.0", "ipk"), "-C", dir))
	must(t, err)
	list, err := output(exec.CommandContext(t.Context(), "tar", "-tvzf", filepath.Join(dir, "data.tar.gz")))
	must(t, err)
	wantWords(t, string(list), []string{"/usr/sbin/pptpalg\n", "/etc/init.d/pptpalg\n", "/etc/pptpalg/pptpalg.yaml\n"}, []string{"systemd", "/man/", "grafana"})
	_, err = output(exec.CommandContext(t.Context(), "tar", "-xzf", filepath.Join(dir, "control.tar.gz"), "-C", dir))
	must(t, err)
	control, err := os.ReadFile(filepath.Join(dir, "control"))
	must(t, err)
	wantWords(t, string(control), []string{"Architecture: all\n", "Version: 1.0.0\n", "kmod-nft-queue", "kmod-nf-conntrack-netlink"}, nil)
	files, err := os.ReadFile(filepath.Join(dir, "conffiles"))
	must(t, err)
	wantWords(t, string(files), []string{"/etc/pptpalg/pptpalg.yaml"}, nil)
	for _, script := range []string{"postinst", "prerm"} {
		if _, err := os.Stat(filepath.Join(dir, script)); err != nil {
			t.Error(err)
		}
	}
}

// TestRouterRefuses runs the script by which a router refuses a program that it cannot run.
func TestRouterRefuses(t *testing.T) {
	tests := []struct {
		arch, router string
		fits         bool
	}{
		{"arm64", "aarch64_cortex-a53", true},
		{"arm64", "mipsel_24kc", false},
		{"armv7", "arm_cortex-a7_neon-vfpv4", true},
		{"armv7", "arm_arm926ej-s", false},
		{"mipsle", "mipsel_24kc", true},
		{"mipsle", "mips_24kc", false},
		{"amd64", "x86_64", true},
		{"amd64", "", false},
	}
	for _, tt := range tests {
		p := packing{root: "../..", stage: t.TempDir(), arch: tt.arch}
		must(t, p.refusal())
		text, err := os.ReadFile(p.staged("preinst"))
		must(t, err)
		script := strings.Replace(string(text), "[ -r /etc/openwrt_release ] && . /etc/openwrt_release", "DISTRIB_ARCH="+tt.router, 1)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		if (err == nil) != tt.fits {
			t.Errorf("the package for %s on %q: %v: %s", tt.arch, tt.router, err, out)
		}
	}
}

// openRC stands in for the functions of OpenRC, and prints what they are asked.
const openRC = `
RC_SVCNAME=pptpalg
ebegin() { :; }
eend() { return "$1"; }
checkpath() { echo checkpath "$@"; }
`

// procd stands in for the functions of OpenWrt's.
const procd = `
mkdir() { :; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { echo "$@"; }
procd_send_signal() { echo signal "$@"; }
`

// TestInitScripts runs the scripts for OpenRC and procd beside stand-ins.
func TestInitScripts(t *testing.T) {
	const rc, wrt = "../../deploy/openrc/pptpalg", "../../deploy/integrations/openwrt/pptpalg.init"
	tests := []struct {
		name, before, script, after string
		want                        []string
	}{
		{"OpenRC starts", openRC + "RULES=--queue=9\nOPTIONS='--log-level debug'\n", rc, `echo "$command $command_args"`, []string{"/usr/sbin/pptpalg run --queue=9 --log-level debug\n"}},
		{"OpenRC as root", openRC, rc, `command=echo; start_pre; stop_post`, []string{"check-config\n", "--owner root:root /run/pptpalg\n", "rules unload\n"}},
		{"OpenRC as a user", openRC + "PPTPALG_USER=pptpalg\n", rc, `command=echo; start_pre; echo "$command_user $capabilities"`, []string{"--owner pptpalg:pptpalg /run/pptpalg\n", "pptpalg:pptpalg ^cap_net_admin\n"}},
		{"OpenRC reloads", openRC, rc, `command=true; reload`, []string{"supervise-daemon pptpalg --signal HUP\n"}},
		{"OpenRC refuses a wrong file", openRC, rc, `command=false; reload || echo refused`, []string{"refused\n"}},
		{"OpenRC does not start with a wrong file", openRC, rc, `command=false; start_pre || echo refused`, []string{"refused\n"}},
		{"procd starts", procd, wrt, `start_service`, []string{"command /usr/sbin/pptpalg run --state-dir /var/run/pptpalg\n", "respawn 3600 1 0\n"}},
		{"procd reloads", procd, wrt, `reload_service`, []string{"signal pptpalg\n"}},
	}
	programs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(programs, "supervise-daemon"), []byte("#!/bin/sh\necho supervise-daemon \"$@\"\n"), 0o755))
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script, err := os.ReadFile(tt.script)
			must(t, err)
			out, err := exec.CommandContext(t.Context(), "sh", "-c", tt.before+string(script)+tt.after).CombinedOutput()
			must(t, err)
			wantWords(t, string(out), tt.want, nil)
		})
	}
}

// TestScriptsParse has the shell read each script of the packages.
func TestScriptsParse(t *testing.T) {
	for _, pattern := range []string{"alpine-*", "arch-*", "deb-*", "rpm-*", "openwrt-*"} {
		names, err := filepath.Glob(filepath.Join("../../deploy/package", pattern))
		must(t, err)
		if len(names) == 0 {
			t.Errorf("no script is called %s", pattern)
		}
		for _, name := range names {
			if out, err := exec.CommandContext(t.Context(), "sh", "-n", name).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
	}
}

// wantWords wants some texts in a text, and others not.
func wantWords(t *testing.T, text string, want, not []string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
	for _, n := range not {
		if strings.Contains(text, n) {
			t.Errorf("%q in:\n%s", n, text)
		}
	}
}

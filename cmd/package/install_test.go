package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/lab"
)

// TestLifeOfAPackage installs the .deb on a clean Debian, sets up a call, upgrades
// under it, removes and purges.
func TestLifeOfAPackage(t *testing.T) {
	r := newRoot(t)
	first, second := r.put(packed(t, "1.0.0", "deb")), r.put(packed(t, "1.0.1", "deb"))
	before := r.files()

	r.mustRun("dpkg", "-i", first)
	r.wantFiles()
	r.wantRunning("1.0.0")
	r.wantReload()
	call := r.dial()
	carries(t, call)

	during := r.whileCarrying(call, func() { r.mustRun("dpkg", "-i", second) })
	t.Logf("%d packets each way went through the upgrade, none was lost", during)
	r.wantRunning("1.0.1")
	r.wantCall()
	if !strings.Contains(r.read("/etc/pptpalg/pptpalg.yaml"), "\nlog-level: debug\n") {
		t.Error("the upgrade has changed the configuration")
	}

	r.mustRun("dpkg", "-r", "pptpalg")
	r.wantStopped()
	carries(t, call)
	if r.read("/etc/pptpalg/pptpalg.yaml") == "" || r.read("/usr/sbin/pptpalg") != "" {
		t.Error("remove is to leave the configuration, and nothing else")
	}

	r.mustRun("dpkg", "-P", "pptpalg")
	r.wantNothingLeft(before)
}

// TestFastPathOfAPackage turns the fast path on as its page says, upgrades under a call, and
// removes the package.
func TestFastPathOfAPackage(t *testing.T) {
	r := newRoot(t)
	first, second := r.put(packed(t, "1.0.0", "deb")), r.put(packed(t, "1.0.1", "deb"))
	before := r.files()
	r.mustRun("dpkg", "-i", first)
	if out := r.mustRun("pptpalg", "fastpath", "status"); !strings.Contains(out, "off, not loaded") {
		t.Errorf("the package comes with %s", out)
	}
	const elsewhere = "/run/elsewhere" // as the unit's flags say, which the removal has to know
	r.mountBPF(elsewhere)
	r.configure("fastpath: auto\n")
	must(t, os.WriteFile(r.path("/etc/default/pptpalg"), []byte("RULES=\nOPTIONS=\"--fastpath-dir="+elsewhere+"/ --log-level=debug\"\n"), 0o644))
	r.mustRun("install", "-D", "-m", "644", "/usr/share/pptpalg/fastpath.conf", "/etc/systemd/system/pptpalg.service.d/fastpath.conf")
	r.mustRun("systemctl", "restart", "pptpalg.service")
	call := r.dial()
	r.wantOnFastPath(call)

	r.whileCarrying(call, func() { r.mustRun("dpkg", "-i", second) })
	r.wantRunning("1.0.1")
	r.wantCall()
	r.wantOnFastPath(call)

	r.mustRun("rm", "-r", "/etc/systemd/system/pptpalg.service.d")
	r.mustRun("dpkg", "-r", "pptpalg")
	if out := r.mustRun("ls", "-A", "/run", elsewhere); strings.Contains(out, "pptpalg-bpf") || strings.Contains(out, "ns_") {
		t.Errorf("after the removal: %s", out)
	}
	must(t, unix.Unmount(r.path(elsewhere), unix.MNT_DETACH)) // the removal has only its own mount namespace
	must(t, os.Remove(r.path(elsewhere)))
	carries(t, call)
	r.mustRun("dpkg", "-P", "pptpalg")
	r.wantNothingLeft(before)
}

// mountBPF mounts what outlives the mount namespaces of commands.
func (r *root) mountBPF(name string) {
	r.t.Helper()
	must(r.t, os.MkdirAll(r.path(name), 0o755))
	must(r.t, unix.Mount("pptpalg", r.path(name), "bpf", 0, "mode=0750"))
	r.t.Cleanup(func() { _ = unix.Unmount(r.path(name), unix.MNT_DETACH) }) // the removal may have done it
}

// wantOnFastPath has a call carry packets until the fast path has some of them.
func (r *root) wantOnFastPath(call *lab.Call) {
	r.t.Helper()
	var status struct {
		Flows   int               `json:"flows"`
		Packets map[string]uint64 `json:"packets"`
	}
	ask := func() uint64 {
		must(r.t, json.Unmarshal([]byte(r.mustRun("pptpalg", "fastpath", "status", "--json")), &status))
		return status.Packets["tc"]
	}
	had := ask()
	err := lab.Poll(lab.Patience, func() bool {
		carries(r.t, call)
		carries(r.t, call)
		return ask() > had
	})
	if err != nil {
		r.t.Errorf("%v: %+v; loading it: %s; the daemon: %s", err, status, r.read("/run/stand-in/fastpath"), r.read("/run/stand-in/log"))
	}
}

// TestDisabledStaysDisabled: an upgrade does not start what the administrator has
// switched off.
func TestDisabledStaysDisabled(t *testing.T) {
	r := newRoot(t)
	r.mustRun("dpkg", "-i", r.put(packed(t, "1.0.0", "deb")))
	r.mustRun("systemctl", "stop", "pptpalg.service")
	r.mustRun("systemctl", "disable", "pptpalg.service")
	r.mustRun("dpkg", "-i", r.put(packed(t, "1.0.1", "deb")))
	r.wantStopped()
}

// wantFiles looks at what is installed, and whose it is.
func (r *root) wantFiles() {
	r.t.Helper()
	for name, mode := range map[string]os.FileMode{
		"/usr/sbin/pptpalg":                                     0o755,
		"/usr/lib/systemd/system/pptpalg.service":               0o644,
		"/usr/lib/systemd/system/pptpalg-fastpath.service":      0o644,
		"/usr/lib/systemd/system/pptpalg-fastpath.path":         0o644,
		"/usr/share/pptpalg/fastpath.conf":                      0o644,
		"/usr/share/doc/pptpalg/FASTPATH.md":                    0o644,
		"/usr/lib/sysusers.d/pptpalg.conf":                      0o644,
		"/etc/pptpalg/pptpalg.yaml":                             0o644,
		"/etc/default/pptpalg":                                  0o644,
		"/etc/logrotate.d/pptpalg":                              0o644,
		"/usr/share/man/man8/pptpalg.8.gz":                      0o644,
		"/usr/share/man/man8/pptpalg-rules-load.8.gz":           0o644,
		"/usr/share/man/man5/pptpalg.yaml.5.gz":                 0o644,
		"/usr/share/bash-completion/completions/pptpalg":        0o644,
		"/usr/share/zsh/vendor-completions/_pptpalg":            0o644,
		"/usr/share/fish/vendor_completions.d/pptpalg.fish":     0o644,
		"/usr/share/pptpalg/grafana":                            0o755,
		"/usr/share/pptpalg/grafana/pptpalg.json":               0o644,
		"/usr/share/pptpalg/prometheus/pptpalg.rules.yml":       0o644,
		"/usr/share/pptpalg/integrations/firewalld/pptpalg.xml": 0o644,
		"/usr/share/doc/pptpalg/README.md":                      0o644,
		"/usr/share/doc/pptpalg/changelog.gz":                   0o644,
		"/usr/share/doc/pptpalg/copyright":                      0o644,
	} {
		got := strings.TrimSpace(r.mustRun("stat", "-L", "-c", "%U:%G %a", name))
		if want := fmt.Sprintf("root:root %o", mode); got != want {
			r.t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, unit := range []string{"/usr/lib/systemd/system/pptpalg.service", "/usr/lib/systemd/system/pptpalg-fastpath.service", "/usr/lib/systemd/system/pptpalg-fastpath.path"} {
		if text := r.read(unit); strings.Contains(text, "/usr/local") {
			r.t.Errorf("the unit is for another place:\n%s", text)
		}
		if out := r.mustRun("systemd-analyze", "verify", "--man=no", unit); out != "" {
			r.t.Errorf("systemd says of %s: %s", unit, out)
		}
	}
	if out := r.mustRun("id", "pptpalg"); !strings.Contains(out, "(pptpalg)") {
		r.t.Error(out)
	}
	if out := r.mustRun("pptpalg", "check-config"); out != "ok\n" {
		r.t.Error(out)
	}
	r.wantRotated()
	r.wantNoKeys()
}

// wantRotated has logrotate rotate an event log of the daemon.
func (r *root) wantRotated() {
	r.t.Helper()
	r.mustRun("install", "-d", "-o", "pptpalg", "-g", "pptpalg", "-m", "750", "/var/log/pptpalg")
	r.mustRun("sh", "-c", "echo line >/var/log/pptpalg/events.json")
	r.mustRun("logrotate", "-f", "-s", "/run/logrotate.state", "/etc/logrotate.d/pptpalg")
	if got := r.mustRun("ls", "/var/log/pptpalg"); got != "events.json.1\n" {
		r.t.Errorf("logrotate leaves %q", got)
	}
	r.mustRun("rm", "-r", "/var/log/pptpalg", "/run/logrotate.state")
}

// wantNoKeys wants a conffile that no version has reason to change: dpkg would ask whoever
// has changed it too. All keys are in a file beside it, which is as good a configuration.
func (r *root) wantNoKeys() {
	r.t.Helper()
	for line := range strings.Lines(r.read("/etc/pptpalg/pptpalg.yaml")) {
		if !strings.HasPrefix(line, "#") {
			r.t.Errorf("the conffile has %q", line)
		}
	}
	if out := r.mustRun("pptpalg", "check-config", "/usr/share/pptpalg/pptpalg.yaml"); out != "ok\n" {
		r.t.Error(out)
	}
}

// wantRunning wants a daemon of this version and its rules.
func (r *root) wantRunning(version string) {
	r.t.Helper()
	if out := r.mustRun("pptpalg", "version"); !strings.HasPrefix(out, "pptpalg "+version+" ") {
		r.t.Errorf("installed is %s", out)
	}
	r.mustRun("systemctl", "is-active", "pptpalg.service")
	log := ""
	says := func(word string) bool { // it writes its log behind
		return lab.Poll(lab.Patience, func() bool { log = r.read("/run/stand-in/log"); return strings.Contains(log, word) }) == nil
	}
	if !says("version="+version) || !says("datapath=kernel") {
		r.t.Errorf("the daemon: %s", log)
	}
	if group := r.mustRun("stat", "-c", "%G", "/proc/net/netfilter/nfnetlink_queue"); group != "pptpalg\n" {
		r.t.Errorf("what waits in queues may be read by group %s", group)
	}
	if !says("rules=nft") {
		r.t.Errorf("rules while it runs: %s", log)
	}
}

// wantReload reloads a good configuration, and a wrong one.
func (r *root) wantReload() {
	r.t.Helper()
	r.configure("log-level: debug\n")
	r.mustRun("systemctl", "reload", "pptpalg.service")
	if err := lab.Poll(lab.Patience, func() bool { return strings.Contains(r.read("/run/stand-in/log"), "applied=[log-level]") }); err != nil {
		r.t.Errorf("reload: %v: %s", err, r.read("/run/stand-in/log"))
	}
	good := r.configure("log-levle: debug\n")
	if out, err := r.run("systemctl", "reload", "pptpalg.service"); err == nil || !strings.Contains(out, `did you mean "log-level"?`) {
		r.t.Errorf("reload of a wrong file: %v: %s", err, out)
	}
	must(r.t, os.WriteFile(r.path("/etc/pptpalg/pptpalg.yaml"), []byte(good), 0o644))
}

// configure adds to the configuration and returns what it was.
func (r *root) configure(text string) (before string) {
	r.t.Helper()
	before = r.read("/etc/pptpalg/pptpalg.yaml")
	must(r.t, os.WriteFile(r.path("/etc/pptpalg/pptpalg.yaml"), []byte(before+text), 0o644))
	return before
}

// dial sets up a call from inside to outside.
func (r *root) dial() *lab.Call {
	r.t.Helper()
	server, err := lab.StartServer(r.Outside[0], lab.Behaviour{})
	must(r.t, err)
	r.t.Cleanup(func() { must(r.t, server.Close()) })
	ctx, cancel := context.WithTimeout(r.t.Context(), lab.Patience)
	defer cancel()
	client, err := lab.StartClient(ctx, r.Inside[0], r.Outside[0].Addr)
	must(r.t, err)
	r.t.Cleanup(func() { _ = client.Close() }) // the server may be gone
	call, err := client.Call(7)
	must(r.t, err)
	return call
}

// carries has a packet go each way.
func carries(t *testing.T, call *lab.Call) {
	t.Helper()
	must(t, call.Exchange([]byte("a packet"), lab.Patience))
}

// whileCarrying has a call carry a packet each way a few hundred times a second while f
// runs, and returns how many. None may be lost.
func (r *root) whileCarrying(call *lab.Call, f func()) (packets int) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		var err error
		for ; ctx.Err() == nil && err == nil; packets++ {
			err = call.Exchange(fmt.Appendf(nil, "packet %d", packets), lab.Patience)
			<-tick.C
		}
		result <- err
	}()
	f()
	cancel()
	must(r.t, <-result)
	return packets
}

// wantCall wants the daemon to know one call.
func (r *root) wantCall() {
	r.t.Helper()
	if out := r.mustRun("pptpalg", "calls"); !strings.Contains(out, "10.77.0.10/7") {
		r.t.Errorf("calls:\n%s", out)
	}
}

func (r *root) wantStopped() {
	r.t.Helper()
	if out, err := r.run("systemctl", "is-active", "pptpalg.service"); err == nil {
		r.t.Errorf("it runs: %s", out)
	}
	if rules := r.mustRun("iptables", "-t", "mangle", "-S"); strings.Contains(rules, "PPTPALG") {
		r.t.Errorf("rules after its end:\n%s", rules)
	}
}

// wantNothingLeft compares with what was there before the package. The user stays.
func (r *root) wantNothingLeft(before map[string]bool) {
	r.t.Helper()
	ofUsers := []string{"/etc/.pwd.lock", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/gshadow", "/etc/shadow"}
	after := r.files()
	for name := range after {
		if !before[name] && !slices.Contains(ofUsers, name) {
			r.t.Errorf("%s is left", name)
		}
	}
	for name := range before {
		if !after[name] {
			r.t.Errorf("%s is gone", name)
		}
	}
	if out := r.mustRun("id", "pptpalg"); !strings.Contains(out, "(pptpalg)") {
		r.t.Error(out)
	}
	if out, err := r.run("dpkg", "-s", "pptpalg"); err == nil {
		r.t.Errorf("dpkg knows it: %s", out)
	}
}

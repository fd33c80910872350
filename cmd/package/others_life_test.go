package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
)

// TestLifeOfOthers installs, upgrades and removes the RPM and Arch's package by their own
// tools, on a Debian without the packages that they depend on: Debian has what is in these.
func TestLifeOfOthers(t *testing.T) {
	if *built == "" {
		return
	}
	tests := []struct {
		format                   string
		install, upgrade, remove []string
	}{
		{
			"rpm", // which has a search path of its own, in which the stand-in for systemctl is not
			[]string{"rpm", "--define", scriptPath, "--root", "ROOT", "--nodeps", "-i"},
			[]string{"rpm", "--define", scriptPath, "--root", "ROOT", "--nodeps", "-U"},
			[]string{"rpm", "--define", scriptPath, "--root", "ROOT", "-e", "pptpalg"},
		},
		{
			"archlinux",
			[]string{"pacman", "--config", "/dev/null", "--root", "ROOT", "--noconfirm", "-Udd"},
			[]string{"pacman", "--config", "/dev/null", "--root", "ROOT", "--noconfirm", "-Udd"},
			[]string{"pacman", "--config", "/dev/null", "--root", "ROOT", "--noconfirm", "-R", "pptpalg"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.format, func(t *testing.T) {
			r := newRoot(t)
			must(t, os.MkdirAll(r.path("/var/lib/pacman"), 0o755))
			r.mustRun("ln", "-sf", "bash", "/bin/sh") // as on Arch and Fedora
			by := func(args ...string) {
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], "ROOT", r.dir)
				}
				if out, err := r.runOutside(args...); err != nil {
					t.Fatalf("%q: %v: %s", args, err, out)
				}
			}
			by(append(tt.install, packed(t, "1.0.0", tt.format))...)
			r.wantStopped()
			r.mustRun("systemctl", "start", "pptpalg.service")
			r.wantRunning("1.0.0")
			call := r.dial()
			carries(t, call)
			by(append(tt.upgrade, packed(t, "1.0.1", tt.format))...)
			r.wantRunning("1.0.1")
			r.wantCall()
			by(tt.remove...)
			r.wantStopped()
			carries(t, call)
			if r.read("/usr/sbin/pptpalg") != "" {
				t.Error("the program is left")
			}
		})
	}
}

const scriptPath = "_install_script_path /usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

// TestLifeUnderOpenRC runs Alpine's package under the OpenRC that Debian has.
func TestLifeUnderOpenRC(t *testing.T) {
	if *built == "" {
		return
	}
	r := bareRoot(t, "iptables,openrc,procps")
	_, err := output(exec.CommandContext(t.Context(), "tar", "-xzf", packed(t, "1.0.0", "apk"), "-C", r.dir))
	must(t, err)
	// As if the machine had started with it.
	for _, name := range []string{"exclusive", "started", "starting", "stopping", "inactive", "wasinactive", "failed", "hotplugged", "daemons", "options", "scheduled", "tmp"} {
		must(t, os.MkdirAll(r.path("/run/openrc/"+name), 0o755))
	}
	must(t, os.WriteFile(r.path("/run/openrc/softlevel"), nil, 0o644))
	must(t, os.WriteFile(r.path("/etc/init.d/localmount"), []byte("#!/sbin/openrc-run\n"), 0o755))
	r.mustRun("sh", "/.post-install")
	r.mustRun("rc-service", "pptpalg", "start")
	r.mustRun("rc-service", "pptpalg", "status")
	r.wantEditing()
	call := r.dial()
	carries(t, call)
	r.wantCall()

	good := r.configure("log-levle: debug\n")
	if out, err := r.run("rc-service", "pptpalg", "reload"); err == nil || !strings.Contains(out, `did you mean "log-level"?`) {
		t.Errorf("reload of a wrong file: %v: %s", err, out)
	}
	must(t, os.WriteFile(r.path("/etc/pptpalg/pptpalg.yaml"), []byte(good), 0o644))
	r.mustRun("rc-service", "pptpalg", "reload")
	r.mustRun("sh", "/.post-upgrade")
	r.wantEditing()
	r.wantCall()
	carries(t, call)

	r.mustRun("sh", "/.pre-deinstall")
	if out, err := r.run("rc-service", "pptpalg", "status"); err == nil {
		t.Errorf("it runs: %s", out)
	}
	if rules := r.mustRun("iptables", "-t", "mangle", "-S"); strings.Contains(rules, "PPTPALG") {
		t.Errorf("rules after its end:\n%s", rules)
	}
	carries(t, call)
}

// wantEditing waits for the daemon: OpenRC does not.
func (r *root) wantEditing() {
	r.t.Helper()
	var out string
	err := lab.Poll(lab.Patience, func() bool {
		var err error
		out, err = r.run("pptpalg", "status")
		return err == nil
	})
	if err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
}

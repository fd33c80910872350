package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withRole has TestRole run.
var withRole = flag.Bool("role", false, "have TestRole set a system up by Ansible")

// TestRole has Ansible set a Debian up, which does nothing the second time, change a setting,
// and refuse a wrong one.
func TestRole(t *testing.T) {
	if !*withRole {
		return
	}
	r := gatewayWithPython(t)
	deb := r.put(packed(t, "1.0.0", "deb"))

	if out := r.play(deb, `{log-level: debug}`); !strings.Contains(out, "failed=0") || strings.Contains(out, "changed=0") {
		t.Errorf("the first time: %s", out)
	}
	r.wantRunning("1.0.0")
	if got := r.mustRun("cat", "/proc/sys/net/ipv4/ip_forward"); got != "1\n" {
		t.Errorf("ip_forward is %s", got)
	}
	call := r.dial()
	carries(t, call)

	if out := r.play(deb, `{log-level: debug}`); !strings.Contains(out, "changed=0") {
		t.Errorf("the second time: %s", out)
	}
	if out := r.play(deb, `{log-level: info, ports: [1723, 1724]}`); !strings.Contains(out, "failed=0") {
		t.Errorf("with another setting: %s", out)
	}
	wantWords(t, r.read("/etc/pptpalg/pptpalg.yaml"), []string{"\nlog-level: info\n", "1724"}, nil)
	r.wantRunning("1.0.0")
	r.wantCall()
	carries(t, call)

	before := r.read("/etc/pptpalg/pptpalg.yaml")
	if out := r.play(deb, `{log-levle: info}`); !strings.Contains(out, "did you mean") {
		t.Errorf("with a wrong setting: %s", out)
	}
	if got := r.read("/etc/pptpalg/pptpalg.yaml"); got != before {
		t.Errorf("a wrong setting is written: %s", got)
	}
}

// gatewayWithPython is newRoot with what Ansible needs there.
func gatewayWithPython(t *testing.T) *root {
	t.Helper()
	r := bareRoot(t, dependencies+",python3,python3-apt")
	r.standIn()
	return r
}

// play runs the role, and returns what Ansible says.
func (r *root) play(deb, config string) string {
	r.t.Helper()
	role, err := filepath.Abs("../../deploy/ansible")
	must(r.t, err)
	vars := filepath.Join(r.t.TempDir(), "vars.yml")
	must(r.t, os.WriteFile(vars, []byte("pptpalg_package: "+deb+"\npptpalg_config: "+config+"\n"), 0o644))
	out, err := r.runOutside("env", "HOME="+r.t.TempDir(), "ANSIBLE_NOCOLOR=1", "LC_ALL=C.UTF-8", "ansible-playbook",
		"-i", r.dir+",", "-e", "ansible_connection=community.general.chroot", "-e", "ansible_become=false", "-e", "ansible_python_interpreter=/usr/bin/python3", "-e", "@"+vars, role+"/gateway.yml")
	if err != nil {
		out += err.Error()
	}
	return out
}

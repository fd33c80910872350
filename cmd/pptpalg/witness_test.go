package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// threeMachines is the network of docs/INTEGRATION.md, "Two gateways and a witness": a directory that is
// the root of each of its machines, by name, and what runs there.
type threeMachines struct {
	t    *testing.T
	docs string // the section
	dir  string
	etcd map[string]*lab.Process
}

func startMachines(t *testing.T) *threeMachines {
	t.Helper()
	text, err := os.ReadFile("../../docs/INTEGRATION.md")
	must(t, err)
	_, section, found := strings.Cut(string(text), "\n## Two gateways and a witness\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("docs/INTEGRATION.md has no such section")
	}
	w := &threeMachines{t: t, docs: section, dir: memoryDir(t), etcd: map[string]*lab.Process{}}
	out, err := exec.Command("cp", "-r", "../../deploy/integrations/ha/.", w.dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return w
}

// block returns the commands of the docs behind a line, or those that begin so.
func (w *threeMachines) block(behind string) string {
	w.t.Helper()
	_, rest, found := strings.Cut(w.docs, behind)
	var block []string
	for line := range strings.Lines(rest) {
		command, indented := strings.CutPrefix(line, "    ")
		if !indented && len(block) > 0 {
			break
		}
		if indented {
			block = append(block, command)
		}
	}
	if !found || len(block) == 0 {
		w.t.Fatalf("the docs have no commands behind %q", behind)
	}
	return strings.Join(block, "")
}

// fileOwner is who gets a file: these users are on a machine with the packages.
var fileOwner = regexp.MustCompile(`-o (etcd|pptpalg) `)

// shell runs commands on a machine, whose /etc and /var are below the directory.
func (w *threeMachines) shell(h *lab.Host, machine, commands string) {
	w.t.Helper()
	commands = fileOwner.ReplaceAllString(strings.ReplaceAll(commands, " /etc/", " "+w.root(machine)+"/etc/"), "")
	_, err := h.Run(w.t.Context(), "sh", "-ec", "cd "+w.dir+"\n"+commands)
	must(w.t, err)
}

func (w *threeMachines) root(machine string) string { return filepath.Join(w.dir, "root", machine) }

// file returns a file of a machine, in which paths lead below the directory, and keepalived does not move addresses
// because it got no processor for a third of a second.
func (w *threeMachines) file(machine, name, program string) string {
	w.t.Helper()
	path := w.root(machine) + name
	b, err := os.ReadFile(path)
	must(w.t, err)
	text := strings.NewReplacer("advert_int 0.1", "advert_int 0.9", "/etc/pptpalg/", w.root(machine)+"/etc/pptpalg/", "/var/lib/", w.root(machine)+"/", "/usr/bin/pptpalg", program).Replace(string(b))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// install does on a machine what the docs say, and starts etcd there.
func (w *threeMachines) install(h *lab.Host, machine string) {
	w.t.Helper()
	for _, dir := range []string{"/etc/default", "/etc/pptpalg", "/etc/keepalived"} {
		must(w.t, os.MkdirAll(w.root(machine)+dir, 0o755))
	}
	w.shell(h, machine, w.block("On "+machine+":"))
	cmd, err := h.Command(context.Background(), "sh", "-c", "set -a; . "+w.file(machine, "/etc/default/etcd", "")+"; exec etcd")
	must(w.t, err)
	log := new(lab.Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := h.Start(cmd)
	must(w.t, err)
	w.etcd[machine] = p
	w.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		if w.t.Failed() {
			w.t.Logf("etcd of %s: %s", machine, log)
		}
	})
}

// keepalived runs it as the docs say.
func (w *threeMachines) keepalived(g *testGateway, machine string) (log *lab.Log) {
	w.t.Helper()
	script := filepath.Join(w.dir, machine+"-pptpalg")
	must(w.t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s=1 exec %s \"$@\" --state-dir %s\n", asProgram, os.Args[0], g.state), 0o755))
	cmd, err := g.Gateway.Command(context.Background(), "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", w.file(machine, "/etc/keepalived/keepalived.conf", script),
		"--pid", filepath.Join(w.dir, machine+"-pid"), "--vrrp_pid", filepath.Join(w.dir, machine+"-vrrp"))
	must(w.t, err)
	log = new(lab.Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := g.Gateway.Start(cmd)
	must(w.t, err)
	w.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		if w.t.Failed() {
			w.t.Logf("keepalived of %s: %s", machine, log)
		}
	})
	return log
}

// isAt waits until the public address is at a gateway.
func (w *threeMachines) isAt(g *testGateway) {
	w.t.Helper()
	here := func() bool {
		st := g.status()
		return len(st.Addresses) == 1 && st.Addresses[0].Here && st.Addresses[0].Mine
	}
	if err := lab.Poll(2*lab.Patience, here); err != nil {
		w.t.Fatalf("%v: %+v", err, g.status())
	}
}

// TestTwoGatewaysAndAWitness: what docs/INTEGRATION.md says of them works as it is written there: three
// members of etcd with TLS and roles, two gateways, keepalived. One gateway dies with all that runs on it.
func TestTwoGatewaysAndAWitness(t *testing.T) {
	needRoot(t)
	must(t, lab.Need("keepalived", "etcd", "etcdctl", "openssl"))
	w := startMachines(t)
	a := buildGateway(t, datapath.Kernel, lab.Options{Inside: 2, Outside: 1, Masquerade: true, Firewall: true, Pair: true})
	b := a.second()
	machines := map[string]*lab.Host{"gw-a": a.Gateway, "gw-b": b.Gateway, "witness": a.Switch}
	must(t, a.Drop(t.Context(), a.Gateway))
	w.shell(a.Gateway, "gw-a", w.block("create the certificates, once:"))
	for machine, h := range machines {
		w.install(h, machine)
	}
	healthy := "etcdctl --endpoints=10.77.0.2:2379,10.77.0.3:2379,10.77.0.250:2379 --cacert=ca.crt --cert=root.crt --key=root.key endpoint health"
	must(t, lab.Poll(2*lab.Patience, func() bool {
		_, err := a.Gateway.Run(t.Context(), "sh", "-ec", "cd "+w.dir+"; "+healthy)
		return err == nil
	}))
	w.shell(a.Gateway, "gw-a", w.block("where root's certificate is"))
	for machine, g := range map[string]*testGateway{"gw-a": a, "gw-b": b} {
		must(t, g.Gateway.IPTables(t.Context(), "-t", "nat", "-F"))
		w.shell(g.Gateway, machine, w.block("forgets masqueraded connections"))
		g.start("--config", w.file(machine, "/etc/pptpalg/pptpalg.yaml", ""))
	}
	w.keepalived(a, "gw-a")
	s := a.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	must(t, lab.Poll(2*lab.Patience, func() bool { return a.has(lab.GatewayPublic.String()) }))
	must(t, w.keepalived(b, "gw-b").WaitFor("Entering BACKUP STATE", lab.Patience))
	one, two := callOn(t, a.client(0), 7), callOn(t, a.client(1), 7)
	exchange(t, one, two)
	w.isAt(a)
	a.wantFollowedBy(b)

	found := a.checkItself()
	for name, want := range map[string]string{
		"etcd": "3 members", "etcd-rights": "below /pptpalg/1/, and nowhere else", "cluster-gateways": "gw-b: the same", "clocks": "the clocks of gw-b",
		"moving-address": "no control connection is masqueraded", "keepalived": "moves 2 addresses",
	} {
		wantFinding(t, found[name], check.OK, want)
	}

	stop := pace(t, one)
	must(t, errors.Join(a.daemon.Kill(), w.etcd["gw-a"].Kill(), a.Cut(t.Context(), a.Gateway)))
	must(t, lab.Poll(2*lab.Patience, func() bool { return b.has(lab.GatewayPublic.String()) }))
	untilCarries(t, two)
	stop("gw-a dies")
	carry(t, one, two)
	for n := range uint32(2) {
		wantEcho(t, one.Client(), 1+n)
		wantEcho(t, two.Client(), 3+n)
	}
	three := callOn(t, one.Client(), 8)
	exchange(t, one, two, three)
	b.wantOwner(3, "gw-b", true)
	for _, call := range []*lab.Call{one, two, three} {
		wantCleared(t, call)
	}
	b.wantCalls(0)
	if n := len(s.Unmatched()); n > 0 {
		t.Errorf("%d packets are for no call: %v", n, s.Unmatched())
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/lab"
)

// fastTrial is one way to have calls go over the fast path. Here tc is clsact, as the kernel
// has no tcx.
type fastTrial struct {
	name, mode, by string // by: what forwards, with --fastpath mode
	place          func(*network) error
	rules          string
	callers        []caller // one for each inside host
	humble         bool     // root loads the fast path, and the daemon has no right to
}

var fastTrials = []fastTrial{
	{"tc", "auto", "tc", (*network).plainWAN, "iptables", []caller{pptpLinux, pptpKernel}, false},
	{"xdp", "xdp", "xdp", (*network).plainCables, "nft", []caller{pptpLinux}, false},
	{"vlan", "tc", "tc", (*network).vlanWAN, "nft", []caller{pptpKernel, pptpLinux}, true},
	{"pppoe", "auto", "tc", (*network).pppoeWAN, "nft", []caller{pptpLinux, pptpLinux}, false},
}

// run has calls go over the fast path, unloads it, and has the calls go on.
func (tr fastTrial) run() (err error) {
	n := &network{
		trial: trial{"kernel", tr.rules, tr.callers}, log: new(lab.Log), outside: 1, humble: tr.humble,
		flags: []string{"--fastpath", tr.mode, "--fastpath-interval", "1m"}, // decisions are to be in force until they are looked at
	}
	defer func() { err = n.end(err) }()
	for _, step := range []func() error{n.build, func() error { return tr.place(n) }, n.loadForDaemon, n.startDaemon} {
		if err := step(); err != nil {
			return err
		}
	}
	clients, err := n.dial()
	if err != nil {
		return err
	}
	if err := errors.Join(n.wantFast(tr, clients), n.says("wan by "+tr.by, "check")); err != nil {
		return err
	}
	if err := n.unload(); err != nil {
		return err
	}
	if err := pingAll(clients...); err != nil {
		return fmt.Errorf("after the fast path was unloaded: %w", err)
	}
	return n.hangUp(clients)
}

// daemonID is the user and the group of a daemon that is not root.
const daemonID = 65534

// humbly has a command run with the rights that the daemon has in the packages.
func humbly(a *syscall.SysProcAttr) {
	a.Credential = &syscall.Credential{Uid: daemonID, Gid: daemonID}
	a.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
}

// wantHumble wants the daemon to have no right but this one.
func (n *network) wantHumble() error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.daemon.PID()))
	if err != nil {
		return fmt.Errorf("look at the daemon's rights: %w", err)
	}
	for _, set := range []string{"CapPrm", "CapEff"} {
		if line := fmt.Sprintf("\n%s:\t%016x\n", set, 1<<unix.CAP_NET_ADMIN); !strings.Contains(string(status), line) {
			return fmt.Errorf("look at the daemon's rights: want %q:\n%s", line, status)
		}
	}
	return nil
}

// loadForDaemon does as root what the daemon has no right to.
func (n *network) loadForDaemon() error {
	if !n.humble {
		return nil
	}
	if err := os.Chown(n.state, daemonID, daemonID); err != nil {
		return fmt.Errorf("give the state directory to the daemon: %w", err)
	}
	_, err := n.fastpath("load", append([]string{"--group", strconv.Itoa(daemonID)}, n.flags...)...)
	return err
}

// fastpath runs one of the commands about the fast path.
func (n *network) fastpath(name string, args ...string) (lab.Output, error) {
	return n.Gateway.Run(context.Background(), program, append([]string{"fastpath", name, "--config", ""}, args...)...)
}

// fastStatus is what "pptpalg fastpath status --json" says.
type fastStatus struct {
	Interfaces []fastPort
	InForce    int `json:"flows_in_force"`
	Packets    map[string]int
}

type fastPort struct{ Name, Attached string }

// wantFast wants the fast path to have both sides, and to forward the clients' GRE in both
// directions.
func (n *network) wantFast(tr fastTrial, clients []*client) error {
	var status lab.Output
	var failed error
	err := poll(func() bool {
		if status, failed = n.fastpath("status", append([]string{"--json"}, n.flags...)...); failed == nil {
			failed = judgeStatus(status.Stdout, tr.by, 2*len(clients))
		}
		return failed == nil || pingAll(clients...) != nil // its decisions may have ended
	})
	if failed != nil || err != nil {
		return fmt.Errorf("look at the fast path: %w: %s", errors.Join(failed, err), status.Stdout)
	}
	slow, err1 := n.inEntries()
	all, err2 := n.inCalls()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for i, end := range []string{"server", "clients"} {
		if all[i]-slow[i] < pings*len(clients)/2 {
			return fmt.Errorf("look at GRE to the %s: the kernel has forwarded %d of %d packets: %s", end, slow[i], all[i], status.Stdout)
		}
	}
	fmt.Printf("guest: fast path by %s, %s: of %d packets to the server and %d to the clients, the kernel has forwarded %d and %d\n", tr.by, tr.name, all[0], all[1], slow[0], slow[1])
	want := []string{"clsact", "pins"}
	if tr.by == "xdp" {
		want = append(want, "xdp")
	}
	return n.wantAttached(want)
}

// judgeStatus looks for both sides, for flows in force, and for packets.
func judgeStatus(status, by string, flows int) error {
	var st fastStatus
	if err := json.Unmarshal([]byte(status), &st); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for _, name := range []string{"lan", "wan"} {
		if !slices.Contains(st.Interfaces, fastPort{name, by}) {
			return fmt.Errorf("%s is not attached by %s", name, by)
		}
	}
	if st.InForce != flows || st.Packets[by] == 0 {
		return fmt.Errorf("%d flows are in force and %d packets were forwarded by %s, want %d flows", st.InForce, st.Packets[by], by, flows)
	}
	return nil
}

// inEntries returns how many packets the entries have counted, to the server and to the
// clients. These are the ones that the kernel has forwarded.
func (n *network) inEntries() ([2]int, error) {
	out, err := n.Gateway.Run(context.Background(), "conntrack", "-L", "-p", "gre")
	if err != nil {
		return [2]int{}, err
	}
	return readEntries(out.Stdout)
}

// entry is the source and the packets of an entry's original direction. The reply direction of
// the daemon's entries has none.
var entry = regexp.MustCompile(`(?m)^gre .*? src=(\S+) .*? packets=(\d+) `)

func readEntries(text string) (packets [2]int, err error) {
	for _, m := range entry.FindAllStringSubmatch(text, -1) {
		from, err1 := netip.ParseAddr(m[1])
		count, err2 := strconv.Atoi(m[2])
		if err := errors.Join(err1, err2); err != nil {
			return packets, fmt.Errorf("read entries: %w", err)
		}
		if lab.LAN.Contains(from) {
			packets[0] += count
		} else {
			packets[1] += count
		}
	}
	return packets, nil
}

// inCalls returns how many packets the daemon tells of.
func (n *network) inCalls() (packets [2]int, err error) {
	out, err := n.Gateway.Run(context.Background(), program, "calls", "--json", "--state-dir", n.state)
	if err != nil {
		return packets, err
	}
	type traffic struct{ Packets int }
	var all []struct {
		ToPAC traffic `json:"to_pac"`
		ToPNS traffic `json:"to_pns"`
	}
	if err := json.Unmarshal([]byte(out.Stdout), &all); err != nil {
		return packets, fmt.Errorf("read calls: %w", err)
	}
	for _, c := range all {
		packets[0] += c.ToPAC.Packets
		packets[1] += c.ToPNS.Packets
	}
	return packets, nil
}

// unload unloads the fast path. Nothing is left of it.
func (n *network) unload() error {
	if _, err := n.fastpath("unload"); err != nil {
		return err
	}
	return n.wantAttached(nil)
}

// pinDir is where the fast path's pins are.
const pinDir = "/run/pptpalg-bpf"

// wantAttached looks for all that the fast path attaches to interfaces, and for its pins. A
// filter needs the qdisc clsact.
func (n *network) wantAttached(want []string) error {
	qdiscs, err1 := n.Gateway.Run(context.Background(), "tc", "qdisc", "show")
	links, err2 := n.Gateway.Run(context.Background(), "ip", "link", "show")
	pins, err3 := os.ReadDir(pinDir)
	if errors.Is(err3, fs.ErrNotExist) {
		err3 = nil
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("look at what is attached: %w", err)
	}
	var got []string
	if strings.Contains(qdiscs.Stdout, "clsact") {
		got = append(got, "clsact")
	}
	if len(pins) > 0 {
		got = append(got, "pins")
	}
	if strings.Contains(links.Stdout, "xdp") {
		got = append(got, "xdp")
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("look at what is attached: got %v, want %v:\n%s%s", got, want, qdiscs.Stdout, links.Stdout)
	}
	return nil
}

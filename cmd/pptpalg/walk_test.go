package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/status"
)

// fault is one thing that breaks a gateway, and what an operator reads about it.
type fault struct {
	name   string
	args   []string             // of the daemon
	breaks func(g *testGateway) // breaks it, and has the client try
	code   int                  // exit code of "pptpalg status"
	status string               // in its first line
	remedy string               // in the command below that line; "" for none
	cause  string               // code of the first cause of "pptpalg explain"
	reason string               // in that cause's line
	ready  int                  // what /-/ready replies
	page   string               // in what the page says first; "" if it has nothing to say, or does not answer
	mends  func(g *testGateway) // mends it; nil: the command of status does
}

// everyone breaks gateways of both kinds of rules, and others one of them.
var (
	everyone = []fault{
		{name: "rules flushed", args: []string{"--rules", "none"}, code: 1,
			status: "PROBLEM: no firewall rule sends control connections to the daemon's queue", remedy: "pptpalg rules load",
			cause: "rules_missing", reason: "no rule sends it control connections", ready: 503, page: "no firewall rule sends control connections",
			breaks: func(g *testGateway) {
				g.flushRules()
				callOn(g.t, g.client(0), 7)
			}},
		{name: "NAT missing", code: 1, status: "PROBLEM: no rule translates addresses: clients behind this gateway have no public address", remedy: "-j MASQUERADE",
			cause: "nat", reason: "no rule translates addresses", ready: 200,
			breaks: func(g *testGateway) {
				must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-F"))
				g.tryDial()
			}},
		{name: "GRE blocked one way", code: 1, status: "PROBLEM: iptables filter: -A FORWARD -i wan -p gre -j DROP drops GRE from wan to lan", remedy: "iptables -I FORWARD",
			cause: "firewall-gre", reason: "-A FORWARD -i wan -p gre -j DROP drops GRE", ready: 200,
			breaks: func(g *testGateway) {
				g.block(g.Gateway, "-I", "FORWARD", "-i", "wan", "-p", "gre")
				g.pings()
			}},
		{name: "helper attached", code: 1, status: "PROBLEM: the kernel's PPTP helper is attached by iptables raw: -A PREROUTING", remedy: "iptables -t raw -D PREROUTING",
			cause: "kernel_helper", reason: "helper", ready: 200,
			breaks: func(g *testGateway) {
				must(g.t, g.AttachKernelHelper(g.t.Context()))
				callOn(g.t, g.client(0), 7)
			}},
		{name: "daemon stopped", code: 3, status: "STOPPED: no daemon is running: new calls are not edited", remedy: "systemctl start pptpalg",
			cause: "daemon_stopped", reason: "no daemon is running: new calls are not edited",
			breaks: (*testGateway).stop, mends: func(g *testGateway) { g.start() }},
	}
	others = []fault{
		{name: "GRE blocked one way, beyond", code: 1, status: `PROBLEM: 1 call carries traffic one way only: no GRE arrives from 203.0.113.10 for 10.77.0.10; "pptpalg explain 10.77.0.10" says why`,
			cause: "no_gre_from_server", reason: "none came from the other end", ready: 200, page: "1 call carries traffic one way only",
			breaks: func(g *testGateway) {
				g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
				g.pings()
			},
			mends: func(g *testGateway) { g.unblock(g.Outside[0]) }},
		{name: "GRE blocked one way, after it has passed", code: 1, status: "PROBLEM: 1 call carries traffic one way only: no GRE arrives from 203.0.113.10",
			cause: "no_gre_from_server", reason: "has carried traffic both ways, but since", ready: 200, page: "1 call carries traffic one way only",
			breaks: func(g *testGateway) {
				g.pings()
				must(g.t, lab.Poll(lab.Patience, func() bool { return g.calls()[0].Carries == "both" }))
				g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
			},
			mends: func(g *testGateway) { g.unblock(g.Outside[0]) }},
		{name: "helper attached by nft", code: 1, status: "PROBLEM: the kernel's PPTP helper is attached by nft inet help", remedy: "nft 'delete rule inet help",
			cause: "kernel_helper", reason: "helper", ready: 200,
			breaks: func(g *testGateway) {
				_, err := g.Gateway.Run(g.t.Context(), "nft", `table inet help { ct helper p { type "pptp" protocol tcp; }; chain c { type filter hook prerouting priority 0; tcp dport 1723 ct helper set "p"; }; }`)
				must(g.t, err)
				callOn(g.t, g.client(0), 7)
			}},
		{name: "daemon killed", code: 3, status: "STOPPED: no daemon is running", cause: "daemon_stopped", reason: "new calls are not edited",
			breaks: (*testGateway).kill, mends: func(g *testGateway) { g.start() }},
		{name: "another program has the queue", code: 3, status: "STOPPED: no daemon is running: new calls are not edited; queue 1723 is bound by ", remedy: " && systemctl start pptpalg",
			cause: "daemon_stopped", reason: "queue 1723 is bound by ",
			breaks: func(g *testGateway) {
				g.stop()
				g.squat()
			},
			mends: func(g *testGateway) { g.start("--queue", "1800") }},
		{name: "daemon suspended", code: 1, status: "is suspended by a signal (SIGSTOP)", remedy: "kill -CONT ", cause: "daemon_suspended", reason: "is suspended",
			breaks: func(g *testGateway) { must(g.t, g.daemon.Signal(syscall.SIGSTOP)) }},
		{name: "forwarding off", code: 1, status: "PROBLEM: IP forwarding is off: net.ipv4.ip_forward is 0", remedy: "sysctl -w net.ipv4.ip_forward=1",
			cause: "ip-forward", reason: "IP forwarding is off", ready: 200,
			breaks: func(g *testGateway) {
				must(g.t, g.Gateway.SetSysctl("net.ipv4.ip_forward", "0"))
				g.tryDial()
			}},
		{name: "forwarding off under a call", code: 1, status: "PROBLEM: IP forwarding is off", remedy: "sysctl -w net.ipv4.ip_forward=1",
			cause: "ip-forward", reason: "IP forwarding is off", ready: 200,
			breaks: func(g *testGateway) {
				g.pings()
				must(g.t, g.Gateway.SetSysctl("net.ipv4.ip_forward", "0"))
			}},
		{name: "TCP 1723 blocked here", code: 1, status: "PROBLEM: iptables filter: -A FORWARD -p tcp -m tcp --dport 1723 -j DROP drops TCP to port 1723", remedy: "iptables -I FORWARD",
			cause: "firewall-control", reason: "drops TCP to port 1723", ready: 200,
			breaks: func(g *testGateway) {
				g.block(g.Gateway, "-I", "FORWARD", "-p", "tcp", "--dport", "1723")
				g.tryDial()
			}},
		{name: "NAT to an address of nobody", code: 0, status: "WARNING: sources are translated to 203.0.113.77 by", remedy: "ip addr add 203.0.113.77/32 dev wan",
			cause: "public_elsewhere", reason: "with the source address 203.0.113.77, which is on no interface", ready: 200,
			breaks: func(g *testGateway) {
				must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-F"))
				must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "SNAT", "--to-source", "203.0.113.77"))
				g.tryDial()
			}},
		{name: "wrong route back", code: 0, status: "OK: all is well",
			cause: "answer_lost", reason: "the answer does not reach 10.77.0.10: this gateway's route to it leads over wan", ready: 200,
			breaks: func(g *testGateway) {
				g.route("replace")
				g.tryDial()
			},
			mends: func(g *testGateway) { g.route("delete") }},
		{name: "wrong route back, and rp_filter", code: 0, status: "OK: all is well",
			cause: "wrong_route", reason: "leads over wan, where the servers are, so the kernel drops what comes from it on another interface (rp_filter; ", ready: 200,
			breaks: func(g *testGateway) {
				c := g.client(0)
				callOn(g.t, c, 9) // so that the daemon knows where it calls
				g.wantCalls(1)
				must(g.t, c.Close())
				g.wantCalls(0)
				must(g.t, g.Gateway.SetSysctl("net.ipv4.conf.lan.rp_filter", "1"))
				g.route("replace")
				g.tryDial()
			},
			mends: func(g *testGateway) { g.route("delete") }},
		{name: "server does not answer", code: 0, status: "OK: all is well", cause: "server_no_answer", reason: "203.0.113.10:1723 does not answer", ready: 200,
			breaks: func(g *testGateway) {
				g.block(g.Outside[0], "-A", "INPUT", "-p", "tcp", "--dport", "1723")
				g.tryDial()
			},
			mends: func(g *testGateway) { g.unblock(g.Outside[0]) }},
	}
)

// TestWalk breaks a gateway as things break, and reads what an operator reads: the first line of
// status, the first cause of explain, what the page says first, and /-/ready. Then it does what
// status says, and a call carries again.
func TestWalk(t *testing.T) {
	programs(t)
	for _, rules := range []string{"nft", "iptables"} {
		for _, f := range everyone {
			t.Run(f.name+", rules by "+rules, func(t *testing.T) { f.test(t, rules) })
		}
	}
	if testing.Short() {
		return // what follows is no different with the race detector
	}
	for _, f := range others {
		t.Run(f.name, func(t *testing.T) { f.test(t, "auto") })
	}
}

func (f *fault) test(t *testing.T, rules string) {
	t.Parallel()
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	if f.args == nil {
		g.start("--rules", rules)
	} else {
		g.start(f.args...)
		g.load(rules)
	}
	g.server(lab.Behaviour{})
	code, text := g.glance()
	if first, _, _ := strings.Cut(text, "\n"); code != 0 || first != "OK: all is well" {
		t.Fatalf("before: exit %d:\n%s", code, text)
	}
	f.breaks(g)
	broken := time.Now()
	var said string
	told := func() bool {
		code, said = g.glance()
		first, below, _ := strings.Cut(said, "\n")
		remedy, _, _ := strings.Cut(below, "\n")
		return code == f.code && strings.Contains(first, f.status) && strings.Contains(remedy, f.remedy)
	}
	if err := lab.Poll(carriageTime, told); err != nil {
		t.Fatalf("status exits with %d and says:\n%s", code, said)
	}
	glanced := time.Since(broken)
	explained := func() bool {
		_, text, _ = g.explain()
		first, _, _ := strings.Cut(text, "\n")
		return strings.HasSuffix(first, "("+f.cause+")") && strings.Contains(first, f.reason)
	}
	if err := lab.Poll(carriageTime, explained); err != nil {
		t.Fatalf("explained as:\n%s", text)
	}
	t.Logf("status named it after %.1f s, explain after %.1f s:\n%s\n%s", glanced.Seconds(), time.Since(broken).Seconds(), said, text)
	if f.cause != "daemon_suspended" { // it replies nothing at all
		if got := g.get("/-/ready"); got != f.ready {
			t.Errorf("/-/ready replies %d, want %d", got, f.ready)
		}
	}
	if f.page != "" {
		if first := g.banner(); !strings.Contains(first, f.page) {
			t.Errorf("the page says %q, want %q", first, f.page)
		}
	}
	f.mend(g, said)
	call := callOn(t, g.client(1), 8)
	exchange(t, call)
}

// mend does what status says.
func (f *fault) mend(g *testGateway, said string) {
	g.t.Helper()
	if f.mends != nil {
		f.mends(g)
		return
	}
	_, remedy, _ := strings.Cut(said, "\n  -> ")
	remedy, _, _ = strings.Cut(remedy, "\n")
	if _, err := g.Gateway.Run(g.t.Context(), "sh", "-ec", remedy); err != nil {
		g.t.Fatalf("%q: %v", remedy, err)
	}
}

// load loads the rules as an administrator who does it himself.
func (g *testGateway) load(rules string) {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		if code, _, stderr := pptpalg(g.t, "rules", "load", "--config", "", "--rules", rules, "--datapath", string(g.path)); code != 0 {
			g.t.Errorf("load rules: %s", stderr)
		}
		return nil
	}))
	must(g.t, lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_ready") == "1" }))
}

// flushRules takes the rules away, and leaves those of others.
func (g *testGateway) flushRules() {
	g.t.Helper()
	_, err := g.Gateway.Run(g.t.Context(), "sh", "-c", "nft delete table ip pptpalg 2>/dev/null || iptables -t mangle -F")
	must(g.t, err)
	must(g.t, lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_ready") == "0" }))
}

// pings has the first client make a call, and send over it until the test ends.
func (g *testGateway) pings() *lab.Call {
	g.t.Helper()
	call := callOn(g.t, g.client(0), 7)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = call.Send([]byte("ping")) // while a gateway is broken, it may be refused
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	g.t.Cleanup(func() {
		cancel()
		<-done
	})
	return call
}

// squat has another program take the daemon's queue.
func (g *testGateway) squat() {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		q, err := nfqueue.Open(nfqueue.Config{Queue: defaultQueue}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
		if err == nil {
			closeAfter(g.t, q)
		}
		return err
	}))
}

// unblock takes away what block has put there.
func (g *testGateway) unblock(h *lab.Host) {
	g.t.Helper()
	must(g.t, h.IPTables(g.t.Context(), "-F"))
}

// route changes a route of the gateway's that sends what is for the first client out.
func (g *testGateway) route(verb string) {
	g.t.Helper()
	_, err := g.Gateway.Run(g.t.Context(), "ip", "route", verb, fmt.Sprintf("%v/32", g.Inside[0].Addr), "dev", "wan")
	must(g.t, err)
}

// banner is the first of the problems that the page shows.
func (g *testGateway) banner() string {
	g.t.Helper()
	var st status.Status
	must(g.t, admin.Client{StateDir: g.state}.Status(g.t.Context(), &st))
	if len(st.Problems) == 0 {
		return ""
	}
	return st.Problems[0]
}

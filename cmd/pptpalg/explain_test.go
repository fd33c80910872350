package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// setup is a network in which calls do not work, for one reason.
type setup struct {
	name    string
	options lab.Options // none stands for masquerade(1)
	args    []string
	breaks  func(g *testGateway) // breaks it, and has the client try
	want    string               // the first cause's code
	text    string               // that the cause or its advice has
}

var setups = []setup{
	{name: "TCP 1723 blocked before conntrack", want: "firewall-control", text: "iptables raw", breaks: func(g *testGateway) {
		g.block(g.Gateway, "-t", "raw", "-I", "PREROUTING", "-p", "tcp", "--dport", "1723")
		g.tryDial()
	}},
	{name: "server does not answer", want: "server_no_answer", text: "203.0.113.10:1723", breaks: func(g *testGateway) {
		g.block(g.Outside[0], "-A", "INPUT", "-p", "tcp", "--dport", "1723")
		g.tryDial()
	}},
	{name: "nothing listens", want: "server_refused_tcp", text: "203.0.113.10:1723", breaks: func(g *testGateway) { g.tryDial() }},
	{name: "no masquerading", options: lab.Options{Inside: 1, Outside: 1}, args: []string{"--untranslated", "leave"}, want: "untranslated", text: "masquerading", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "kernel's helper attached", want: "kernel_helper", text: "--helper pptp", breaks: func(g *testGateway) {
		must(g.t, g.AttachKernelHelper(g.t.Context()))
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "proxy answers", want: "not_pptp", text: "203.0.113.10 does not speak PPTP", breaks: func(g *testGateway) {
		g.proxy()
		g.tryDial()
	}},
	{name: "server refuses the control connection", want: "server_refused", text: "4 (requester is not authorized)", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{Message: func(s *lab.Session, m lab.Message) bool {
			return m.Type == lab.StartRequest && s.Send(lab.NewStartReply(4)) == nil
		}})
		g.tryDial()
	}},
	{name: "server refuses the call", want: "call_refused", text: "2 (general error), error 4 (no resource", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{Message: refuseCall})
		if _, err := g.client(0).Call(7); err == nil {
			g.t.Error("the call is granted")
		}
	}},
	{name: "too many calls of the client", args: []string{"--max-calls-per-client", "1"}, want: "limit_client", text: "--max-calls-per-client", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		c := g.client(0)
		callOn(g.t, c, 7)
		callOn(g.t, c, 8)
	}},
	{name: "client hangs up", want: "call_ended", text: "by the client 10.77.0.10", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		call := callOn(g.t, g.client(0), 7)
		exchange(g.t, call)
		must(g.t, call.Clear())
	}},
	{name: "PPTP service hangs", want: "call_unanswered", text: "Outgoing-Call-Request", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{Silent: []lab.Type{lab.OutgoingCallRequest}})
		must(g.t, g.client(0).Send(lab.NewOutgoingCallRequest(7)))
	}},
	{name: "rules never loaded", args: []string{"--rules", "none"}, want: "rules_missing", text: "no rule sends it control connections", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "rules skipped", args: []string{"--rules", "iptables"}, want: "rules_missing", text: "-p tcp -j ACCEPT keeps control connections from its rules", breaks: func(g *testGateway) {
		must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "mangle", "-I", "PREROUTING", "-p", "tcp", "-j", "ACCEPT"))
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "server inside refuses the call", options: lab.Options{Inside: 1, Outside: 1, Masquerade: true, DNAT: lab.DNATControl, Firewall: true},
		want: "call_refused", text: "by the client 10.77.0.10", breaks: func(g *testGateway) {
			serverOn(g.t, g.Inside[0], lab.Behaviour{Message: refuseCall})
			if _, err := clientOn(g.t, g.Outside[0], lab.PublicOf(0)).Call(7); err == nil {
				g.t.Error("the call is granted")
			}
		}},
}

// greSetups are those in which nothing but GRE fails.
var greSetups = []setup{
	{name: "GRE of the server blocked upstream", want: "no_gre_from_server", text: "3 GRE packets of the client", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		call := callOn(g.t, g.client(0), 7)
		g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
		for range 3 {
			must(g.t, call.Send([]byte("nobody answers")))
		}
	}},
	{name: "GRE of the client blocked", want: "no_gre_from_client", text: "2 GRE packets came", breaks: func(g *testGateway) {
		s := g.server(lab.Behaviour{})
		call := callOn(g.t, g.client(0), 7)
		_, err := g.Inside[0].Run(g.t.Context(), "nft", "table netdev own { chain out { type filter hook egress device eth0 priority 0; ip protocol gre drop; }; }")
		must(g.t, err)
		must(g.t, call.Send([]byte("blocked")))
		for range 2 {
			must(g.t, s.Send(0, []byte("hello")))
		}
	}},
	{name: "no GRE at all", want: "no_gre", text: "from either end", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "all is well", want: "working", text: "MPPE", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		exchange(g.t, callOn(g.t, g.client(0), 7))
	}},
}

// TestExplain breaks networks, and has each named.
func TestExplain(t *testing.T) {
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) { s.test(t, datapath.Auto) })
	}
}

func TestExplainGRE(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) {
		for _, s := range greSetups {
			t.Run(s.name, func(t *testing.T) { s.test(t, path) })
		}
	})
}

func (s setup) test(t *testing.T, path datapath.Name) {
	t.Parallel()
	if s.options == (lab.Options{}) {
		s.options = masquerade(1)
	}
	g := buildGateway(t, path, s.options)
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start(s.args...)
	s.breaks(g)
	var report explain.Report
	named := func() bool {
		code, stdout, stderr := g.explain("--json")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		report = explain.Report{}
		decode(t, stdout, &report)
		keeps(t, "explain", stdout)
		first := report.Causes[0]
		return first.Code == s.want && strings.Contains(first.Text+first.Advice, s.text)
	}
	if err := lab.Poll(lab.Patience, named); err != nil {
		t.Errorf("the causes are %+v, want %s first, with %q", report.Causes, s.want, s.text)
	}
	_, stdout, _ := g.explain()
	t.Log(stdout)
	if !strings.HasPrefix(ageless(stdout), "1. "+ageless(report.Causes[0].Text)) {
		t.Errorf("as text: %s", stdout)
	}
}

// ageless returns a text without what explain.Age wrote: time passes between two commands.
func ageless(text string) string { return ages.ReplaceAllString(text, "some time") }

var ages = regexp.MustCompile(`\b([0-9]+[dhms])+\b`)

// explain runs pptpalg explain on the gateway.
func (g *testGateway) explain(args ...string) (code int, stdout, stderr string) {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		code, stdout, stderr = pptpalg(g.t, append([]string{"explain", "10.77.0.10", "--state-dir", g.state}, args...)...)
		return nil
	}))
	return code, stdout, stderr
}

// block has a host drop packets.
func (g *testGateway) block(h *lab.Host, match ...string) {
	g.t.Helper()
	must(g.t, h.IPTables(g.t.Context(), append(match, "-j", "DROP")...))
}

// tryDial has the client dial in vain.
func (g *testGateway) tryDial() { g.t.Helper(); inVain(g.t, g.Inside[0], g.Outside[0]) }

// inVain has a host dial another one in vain, for long enough that it sends a SYN, and hears a refusal.
func inVain(t *testing.T, from, to *lab.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if c, err := lab.StartClient(ctx, from, to.Addr); err == nil {
		t.Errorf("dialled: %v", c.Close())
	}
}

// proxy listens where the PPTP server should, and speaks HTTP.
func (g *testGateway) proxy() {
	g.t.Helper()
	l, err := g.Outside[0].Listen(at1723(g.Outside[0].Addr))
	must(g.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n"))
			_ = c.Close()
		}
	}()
	g.t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// refuseCall refuses outgoing calls with a General Error Code.
func refuseCall(s *lab.Session, m lab.Message) bool {
	if m.Type != lab.OutgoingCallRequest {
		return false
	}
	reply := lab.NewOutgoingCallReply(0, m.CallID, 2).Bytes()
	reply[17] = 4 // No-Resource
	return s.SendRaw(reply) == nil
}

func TestExplainWrong(t *testing.T) {
	code, _, stderr := pptpalg(t, "explain", "somebody")
	if code != 2 || !strings.Contains(stderr, "give the inside address") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

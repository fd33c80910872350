package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// feat is something that a client wants of the gateway. Another client has a call with
// the same Call ID.
type feat struct {
	name   string // in docs/COMPARISON.md
	helper bool   // the kernel's helper can do it, too
	do     func(g *testGateway, c *lab.Client, s *lab.Server) error
}

// soon is how long a feat's packets may take.
const soon = 4 * time.Second

var feats = []feat{
	{"a call with the Call ID of another client's call", true, func(_ *testGateway, c *lab.Client, _ *lab.Server) error {
		return tried(c.Call(7))
	}},
	{"a second call on the same control connection", false, func(_ *testGateway, c *lab.Client, _ *lab.Server) error {
		if err := tried(c.Call(8)); err != nil {
			return err
		}
		return tried(c.Call(7))
	}},
	{"an Outgoing-Call-Request in two segments", false, func(_ *testGateway, c *lab.Client, _ *lab.Server) error {
		return granted(c, c.SendCut(lab.NewOutgoingCallRequest(7).Bytes(), 13))
	}},
	{"an Outgoing-Call-Request after another message in one segment", false, func(_ *testGateway, c *lab.Client, _ *lab.Server) error {
		if err := c.Send(lab.NewEchoRequest(1), lab.NewOutgoingCallRequest(7)); err != nil {
			return err
		}
		_, err := c.Expect(lab.EchoReply, soon)
		return granted(c, err)
	}},
	{"an incoming call, with the client as PAC", false, func(_ *testGateway, c *lab.Client, _ *lab.Server) error {
		return tried(c.OfferCall(7))
	}},
	{"a call that is silent for longer than conntrack keeps GRE", false, func(g *testGateway, c *lab.Client, s *lab.Server) error {
		for _, name := range []string{"nf_conntrack_gre_timeout", "nf_conntrack_gre_timeout_stream"} {
			must(g.t, g.Gateway.SetSysctl("net.netfilter."+name, "1"))
		}
		call, err := c.Call(7)
		if err := tried(call, err); err != nil {
			return err
		}
		pass(3 * time.Second)
		if err := s.Send(1, []byte("after the silence")); err != nil {
			return err
		}
		_, err = call.Recv(soon)
		return err
	}},
	{"`conntrack -D -p gre` by another program", false, func(g *testGateway, c *lab.Client, _ *lab.Server) error {
		return outlives(c, func() { g.conntrack("-D", "-p", "gre") })
	}},
	{"`conntrack -F` by another program", false, func(g *testGateway, c *lab.Client, _ *lab.Server) error {
		return outlives(c, func() { g.conntrack("-F") })
	}},
	{"\"fragmentation needed\" from a router on the way reaches the client", false, tooBig},
}

// tried has a call that was placed carry a packet there and back.
func tried(call *lab.Call, err error) error {
	if err != nil {
		return err
	}
	return call.Exchange([]byte("there and back"), soon)
}

// granted takes the reply to a request that was sent, and tries the call.
func granted(c *lab.Client, err error) error {
	if err != nil {
		return err
	}
	m, err := c.Expect(lab.OutgoingCallReply, soon)
	if err == nil && m.PeerCallID != 7 {
		err = fmt.Errorf("the reply is for call %v", m.PeerCallID)
	}
	if err != nil {
		return err
	}
	return tried(c.Placed(m), nil)
}

// outlives has a call carry packets again within some seconds of what others did.
func outlives(c *lab.Client, others func()) error {
	call, err := c.Call(7)
	if err := tried(call, err); err != nil {
		return err
	}
	others()
	return lab.Poll(lab.Patience, func() bool { return tried(call, nil) == nil })
}

func tooBig(g *testGateway, c *lab.Client, s *lab.Server) error {
	call, err := c.Call(7)
	if err := tried(call, err); err != nil {
		return err
	}
	router, client := openICMP(g.t, g.Outside[1]), openICMP(g.t, c.Host)
	if err := router.Send(lab.TooBig{Dst: lab.GatewayPublic, MTU: 1000, QuotSrc: lab.GatewayPublic, QuotDst: s.Host.Addr, QuotCallID: call.Peer}); err != nil {
		return err
	}
	got, err := client.Recv(soon)
	if err == nil && (got.QuotSrc != c.Host.Addr || got.QuotCallID != call.Peer) {
		err = fmt.Errorf("the client is told %v", got)
	}
	return err
}

// TestBesideTheKernelHelper holds the table of docs/COMPARISON.md.
func TestBesideTheKernelHelper(t *testing.T) {
	doc, err := os.ReadFile("../../docs/COMPARISON.md")
	must(t, err)
	for _, f := range feats {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel() // where the helper fails, it takes as long as one waits
			helper, ours := f.over(t, func(g *testGateway) { must(t, g.AttachKernelHelper(t.Context())) }), f.over(t, func(g *testGateway) { g.start() })
			t.Logf("kernel helper: %v; pptpalg: %v", helper, ours)
			if (helper == nil) != f.helper || ours != nil {
				t.Errorf("kernel helper: %v; pptpalg: %v", helper, ours)
			}
			if row := fmt.Sprintf("| %s | %s | yes |\n", f.name, yes(helper == nil)); !strings.Contains(string(doc), row) {
				t.Errorf("docs/COMPARISON.md does not say %s", row)
			}
		})
	}
}

// over tries the feat on a gateway of its own.
func (f feat) over(t *testing.T, edit func(*testGateway)) error {
	g := buildGateway(t, datapath.Kernel, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true})
	edit(g)
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	exchange(t, callOn(t, g.client(0), 7))
	return f.do(g, g.client(1), s)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

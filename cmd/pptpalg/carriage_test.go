package main

import (
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// carriageTime is for how long packets may come one way only before a call is said to carry so, and
// patience.
const carriageTime = 10*time.Second + lab.Patience

// wantCarries waits until the only call carries so, and is shown so.
func (g *testGateway) wantCarries(how, shown string) (c admin.Call) {
	g.t.Helper()
	must(g.t, lab.Poll(carriageTime, func() bool {
		all := g.calls()
		if len(all) == 1 {
			c = all[0]
		}
		return c.Carries == how
	}))
	if _, stdout, _ := pptpalg(g.t, "calls", "--state-dir", g.state, "--filter", shown); !strings.Contains(stdout, " "+shown+" ") {
		g.t.Errorf("it is shown as:\n%s", stdout)
	}
	return c
}

// TestCallsThatDoNotCarry are named: a call that carries nothing, then one way only, then both,
// over both data paths.
func TestCallsThatDoNotCarry(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) {
		g := buildGateway(t, path, masquerade(1))
		must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
		g.start()
		s := g.server(lab.Behaviour{Answer: func(lab.CallRecord, []byte) []byte { return nil }})
		began := time.Now()
		call := callOn(t, g.client(0), 7)
		if c := g.calls()[0]; c.Carries != "unknown" && time.Since(began) < 8*time.Second {
			t.Errorf("a call that has just begun: %q", c.Carries)
		}
		g.wantCarries("silent", "silent")
		for range 2 {
			must(t, call.Send([]byte("is anybody there?")))
		}
		c := g.wantCarries("one_way", "one-way")
		if c.NoneTo != "pns" || c.NoneSince == nil {
			t.Errorf("%+v", c)
		}
		must(t, lab.Poll(lab.Patience, func() bool {
			return g.metric("pptpalg_calls_one_way") == "1" && g.metric("pptpalg_calls_silent") == "0"
		}))
		must(t, s.Send(0, []byte("yes")))
		g.wantCarries("both", "established")
	})
}

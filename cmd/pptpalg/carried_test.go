package main

import (
	"path/filepath"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/history"
)

// carrier is a call whose packets the fast path carries, and what they are.
type carrier struct {
	*testGateway
	client *lab.Client
	call   *lab.Call
	sent   uint64 // each way
	log    string // the event log
}

// carrying starts a daemon with the fast path, and has a call carry packets there.
func carrying(t *testing.T, g *testGateway) *carrier {
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	c := &carrier{testGateway: g, log: filepath.Join(t.TempDir(), "events.json")}
	c.begin("auto")
	g.server(lab.Behaviour{Refuse: true})
	c.client = g.client(0)
	c.call = callOn(t, c.client, 7)
	c.exchange()
	c.wantCarried()
	return c
}

// begin starts a daemon.
func (c *carrier) begin(mode string, args ...string) {
	c.t.Helper()
	c.startFast(mode, append([]string{"--fastpath-interval", "1m", "--event-log", c.log}, args...)...)
}

// exchange has the call carry more packets.
func (c *carrier) exchange() {
	c.t.Helper()
	for range 50 {
		exchange(c.t, c.call)
		c.sent += 3
	}
}

// wantCarried: the daemon tells of all packets of the call.
func (c *carrier) wantCarried() {
	c.t.Helper()
	if all := c.wantCalls(1); all[0].ToPNS.Packets != c.sent || all[0].ToPAC.Packets != c.sent {
		c.t.Errorf("the call tells %+v and %+v, want %d packets", all[0].ToPNS, all[0].ToPAC, c.sent)
	}
}

// wantClosed ends the call, and looks at what is told of it.
func (c *carrier) wantClosed(approximate bool, least uint64) {
	c.t.Helper()
	must(c.t, c.client.Close())
	var last history.Record
	err := lab.Poll(lab.Patience, func() bool {
		all := c.readEvents(c.log)
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		return last.Event == history.Closed
	})
	if err != nil || last.Closing == nil || last.ToServer == nil {
		c.t.Fatalf("the last event is %+v: %v", last, err)
	}
	if last.Approximate != approximate || last.ToServer.Packets < least || last.ToServer.Packets > c.sent {
		c.t.Errorf("it has carried %+v, approximate: %v; want from %d to %d, approximate: %v", last.ToServer, last.Approximate, least, c.sent, approximate)
	}
}

// TestCarriedOver: what a call has carried on the fast path is told when that is turned off, or made
// anew, and after later starts. Where nobody could read it, what is told is approximate.
func TestCarriedOver(t *testing.T) {
	eachFastPath(t, func(t *testing.T, g *testGateway, _ string) {
		c := carrying(t, g)
		step := func(mode string, args ...string) {
			t.Helper()
			g.stop()
			c.begin(mode, args...)
			c.wantCarried()
			c.exchange()
			c.wantCarried()
		}
		step("off")
		step("off") // the former count is not in the kernel any more
		step("auto")
		step("auto", "--fastpath-flows", "1000")
		step("auto", "--fastpath-flows", "40000")
		g.fastpath("unload") // under the daemon, which has read it until then
		c.exchange()
		step("auto")
		g.kill()
		c.begin("off")
		c.wantCarried()
		c.wantClosed(false, c.sent)
	})
}

// TestCarriedLost: the fast path is unloaded while no daemon runs. What the last daemon knew is told,
// as approximate, also by later daemons.
func TestCarriedLost(t *testing.T) {
	eachFastPath(t, func(t *testing.T, g *testGateway, _ string) {
		c := carrying(t, g)
		g.stop()
		known := c.sent
		c.exchange() // nobody reads how many
		g.fastpath("unload")
		for _, mode := range []string{"off", "auto", "auto"} {
			c.begin(mode)
			if all := c.wantCalls(1); all[0].ToPAC.Packets < known || all[0].ToPAC.Packets > c.sent {
				t.Errorf("it tells %+v, want from %d to %d", all[0].ToPAC, known, c.sent)
			}
			g.stop()
		}
		c.begin("auto")
		c.wantClosed(true, known)
	})
}

// TestCarriedUnknown: a daemon that was killed wrote nothing at its end. The next one finds that the fast
// path is gone, and tells what the entry has counted as approximate.
func TestCarriedUnknown(t *testing.T) {
	eachFastPath(t, func(t *testing.T, g *testGateway, _ string) {
		c := carrying(t, g)
		g.kill()
		g.fastpath("unload")
		c.begin("off")
		g.kill()
		c.begin("off")
		c.wantClosed(true, 1)
	})
}

package gateway

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// recent is for how long a refused connection explains that nothing comes of a client.
const recent = 5 * time.Minute

// Explain tells what is known of an inside address, and why its calls do not work. It
// may be called from any goroutine, and asks the kernel: no packet waits for it.
func (g *Gateway) Explain(ctx context.Context, client netip.Addr) (explain.Report, error) {
	f := explain.Facts{Client: client, Events: g.events.Of(client), OverQueue: g.visits() != nil, Follows: g.cfg.Follow, Rules: g.rulesThere(ctx), Now: time.Now()}
	f.Refusals = g.refusalsSince(f.Now.Add(-recent))
	if v := g.visits(); v != nil {
		f.Unmatched = v.Count(gre.NoFlow)
	}
	live, err := g.viewer.Connections(g.cfg.Ports)
	if err != nil {
		return explain.Report{}, err
	}
	have := make(datapath.Flows)
	strays, err := g.path.View(have, firstStrays())
	if err != nil {
		return explain.Report{}, err
	}
	strays = g.concern(strays, live, nil)
	f.Connections = slices.DeleteFunc(live, func(c calls.Connection) bool { return !of(&c, client) })
	for _, s := range g.concern(strays, f.Connections, nil) {
		f.Strays = append(f.Strays, explain.Stray{From: s.Src, To: s.Dst, CallID: s.Key, Traffic: s.Traffic})
	}
	for _, v := range g.Calls() {
		if v.PNS.Address == client || v.PAC.Address == client {
			f.Calls = append(f.Calls, explainCall(v, client, have))
		}
	}
	return explain.New(f), nil
}

// of reports whether an end of a connection has the address.
func of(c *calls.Connection, a netip.Addr) bool {
	return c.Original.Src.Addr() == a || c.Reply.Src.Addr() == a
}

func explainCall(v calls.View, client netip.Addr, have datapath.Flows) explain.Call {
	c := explain.Call{View: v}
	for _, f := range v.Flows {
		t, there := have.At(f)
		way := explain.Way{Present: there, Traffic: t}
		if f.NewDst == client {
			c.ToClient = way
		} else {
			c.ToPeer = way
		}
	}
	return c
}

// rulesThere looks whether the rules that the daemon has loaded are still there. Those
// of others it does not know.
func (g *Gateway) rulesThere(ctx context.Context) explain.Rules {
	done := g.loaded.Load()
	if done == nil {
		return explain.RulesUnknown
	}
	loaded, err := g.firewall.Present(ctx, done.Config)
	switch {
	case err != nil:
		return explain.RulesUnknown
	case loaded:
		return explain.RulesLoaded
	}
	return explain.RulesMissing
}

// Traffic returns what has travelled in the flows of calls, by Unmarked flows.
func (g *Gateway) Traffic() (map[calls.Flow]calls.Traffic, error) {
	have := make(datapath.Flows)
	_, err := g.path.View(have, firstStrays())
	return have, err
}

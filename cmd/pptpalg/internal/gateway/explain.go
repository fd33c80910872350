package gateway

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/conntrack"
)

// recent is for how long a refused connection explains that nothing comes of a client.
const recent = 5 * time.Minute

// Explain tells what is known of an inside address, and why its calls do not work. It
// may be called from any goroutine, and asks the kernel: no packet waits for it.
func (g *Gateway) Explain(ctx context.Context, client netip.Addr) (explain.Report, error) {
	k, err := g.knowledge(ctx)
	if err != nil {
		return explain.Report{}, err
	}
	return explain.New(g.facts(k, client)), nil
}

// ExplainAll explains each client that has trouble, the worst first. The rest is as for Explain.
func (g *Gateway) ExplainAll(ctx context.Context) ([]explain.Report, error) {
	k, err := g.knowledge(ctx)
	if err != nil {
		return nil, err
	}
	clients := make(map[netip.Addr]struct{})
	for _, c := range k.live {
		clients[c.Original.Src.Addr()] = struct{}{}
	}
	for _, v := range k.calls {
		clients[v.Control.Src.Addr()] = struct{}{}
	}
	for _, client := range g.events.Clients() {
		clients[client] = struct{}{}
	}
	delete(clients, netip.Addr{}) // what concerns all clients, such as rules that are lost
	k.index()
	k.Many = true
	var all []explain.Report
	for client := range clients {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if r := explain.New(g.facts(k, client)); r.Trouble() {
			all = append(all, r)
		}
	}
	explain.Worst(all)
	return all, nil
}

// knowledge is what the daemon and the kernel know of all clients at a time.
type knowledge struct {
	explain.Facts // what is the same for all
	live          []calls.Connection
	have          datapath.Flows
	strays        []conntrack.Stray
	calls         []calls.View

	// The same by the addresses of their ends; nil until index.
	liveOf  map[netip.Addr][]calls.Connection
	callsOf map[netip.Addr][]calls.View
}

func (g *Gateway) knowledge(ctx context.Context) (*knowledge, error) {
	k := &knowledge{Facts: explain.Facts{OverQueue: g.visits() != nil, Follows: g.cfg.Follow, Rules: g.rulesThere(ctx), Now: time.Now()}, have: make(datapath.Flows)}
	k.Refusals = g.refusalsSince(k.Now.Add(-recent))
	if v := g.visits(); v != nil {
		k.Unmatched = v.Count(gre.NoFlow)
	}
	var err error
	if k.live, err = g.viewer.Connections(g.cfg.Ports); err != nil {
		return nil, err
	}
	if k.strays, err = g.path.View(k.have, firstStrays()); err != nil {
		return nil, err
	}
	k.strays, k.calls = g.concern(k.strays, k.live, nil), g.Calls()
	k.Homes, _ = g.homes.list() // nil: they are not known
	k.Handshakes = explain.Handshakes{Sent: kernelSeconds("nf_conntrack_tcp_timeout_syn_sent"), Answered: kernelSeconds("nf_conntrack_tcp_timeout_syn_recv")}
	return k, nil
}

// kernelSeconds reads a time of netfilter's, 0 if there is none.
func kernelSeconds(name string) time.Duration {
	if n := kernelNumber(name)(); !math.IsNaN(n) {
		return time.Duration(n) * time.Second
	}
	return 0
}

// index sorts what is known by client, where many clients are asked about.
func (k *knowledge) index() {
	k.liveOf, k.callsOf = make(map[netip.Addr][]calls.Connection), make(map[netip.Addr][]calls.View)
	for _, c := range k.live {
		for _, a := range twoOf(c.Original.Src.Addr(), c.Reply.Src.Addr()) {
			k.liveOf[a] = append(k.liveOf[a], c)
		}
	}
	for _, v := range k.calls {
		for _, a := range twoOf(v.PNS.Address, v.PAC.Address) {
			k.callsOf[a] = append(k.callsOf[a], v)
		}
	}
}

// twoOf are two addresses, or one if they are the same.
func twoOf(a, b netip.Addr) []netip.Addr { return slices.Compact([]netip.Addr{a, b}) }

// of returns what is known of one client.
func (k *knowledge) of(client netip.Addr) (live []calls.Connection, views []calls.View) {
	if k.liveOf != nil {
		return slices.Clone(k.liveOf[client]), k.callsOf[client]
	}
	live = slices.DeleteFunc(slices.Clone(k.live), func(c calls.Connection) bool { return !of(&c, client) })
	views = slices.DeleteFunc(slices.Clone(k.calls), func(v calls.View) bool { return v.PNS.Address != client && v.PAC.Address != client })
	return live, views
}

// facts returns what is known of a client.
func (g *Gateway) facts(k *knowledge, client netip.Addr) explain.Facts {
	f := k.Facts
	f.Client, f.Events = client, g.events.Of(client)
	var views []calls.View
	f.Connections, views = k.of(client)
	f.Older = g.older.Load().of(f.Connections)
	for _, s := range g.concern(slices.Clone(k.strays), f.Connections, nil) {
		f.Strays = append(f.Strays, explain.Stray{From: s.Src, To: s.Dst, CallID: s.Key, Traffic: s.Traffic, Shared: k.shared(&s, client)})
	}
	for _, v := range views {
		f.Calls = append(f.Calls, g.explainCall(v, client, k.have))
	}
	if witness := g.witness.Load(); witness != nil {
		(*witness)(&f)
	}
	return f
}

// shared reports whether another client has a control connection between the ends of a stray.
func (k *knowledge) shared(s *conntrack.Stray, client netip.Addr) bool {
	return slices.ContainsFunc(k.live, func(c calls.Connection) bool {
		from, to := c.Reply.Src.Addr(), c.Reply.Dst.Addr()
		return !of(&c, client) && (from == s.Src && to == s.Dst || to == s.Src && from == s.Dst)
	})
}

// Witness has what runs beside the daemon add to the facts of a client what it has seen. It must
// be safe to call from any goroutine.
func (g *Gateway) Witness(add func(*explain.Facts)) { g.witness.Store(&add) }

// Metered has each audit show what all flows had carried at a time or later. The map is valid until look
// returns.
func (g *Gateway) Metered(look func(at time.Time, carried map[calls.Flow]calls.Traffic)) {
	g.meter.Store(&look)
}

// of reports whether an end of a connection has the address.
func of(c *calls.Connection, a netip.Addr) bool {
	return c.Original.Src.Addr() == a || c.Reply.Src.Addr() == a
}

func (g *Gateway) explainCall(v calls.View, client netip.Addr, have datapath.Flows) explain.Call {
	c := explain.Call{View: v}
	for _, f := range v.Flows {
		t, there := have.At(f)
		way := explain.Way{Present: there, Traffic: t, TooBig: g.tooBigs.about(f)}
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
	have := make(datapath.Flows, g.flowsMeant())
	_, err := g.path.View(have, firstStrays())
	return have, err
}

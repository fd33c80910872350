package alg

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestManyGateways: several gateways share their calls by a list of records, in which the
// owner of a public address writes what happens to its calls before their receivers hear of
// it, except that calls end: that it writes behind. The others read the list as they get to
// it. Owners die, at any instant, and others take over, or an address moves from one that
// lives; the dead come back and know what is in the list. Whatever happens: the gateway that
// takes over has each call that an end was told of and that has not ended, with its flows in
// its data path; the IDs that pass are those that the ends know; and no public ID is given
// to two calls at a time, nor before it has rested.
func TestManyGateways(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t, rt)
		for range rapid.IntRange(20, 200).Draw(rt, "steps") {
			c.step()
			c.now = c.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Millisecond, 10 * time.Second}).Draw(rt, "time"))
		}
		for i := range c.publics {
			c.move(i)
		}
		for i := range c.publics {
			c.move(i)
		}
	})
}

// cluster is the gateways, their list, and who talks through them.
type cluster struct {
	t       *testing.T
	rt      *rapid.T
	now     time.Time
	list    []entry
	gates   []*gate
	publics []netip.Addr
	at      []*gate // who has each public address; nil after its death
	phones  []*phone
	given   map[tag]*given
	servers pptp.CallID // the last ID of a server
}

// entry is one thing in the list: a call as it is, or that it is gone.
type entry struct {
	by   *gate
	call calls.Record
	gone bool
	at   time.Time
}

// gate is a gateway from its start to its death.
type gate struct {
	*rig
	c      *cluster
	slot   uint8
	read   int     // how much of the list
	behind []entry // that are to be written
	flows  map[calls.Flow]calls.Flow
}

// phone is a connection with its calls.
type phone struct {
	*wire
	public int // of cluster.publics
	open   []*dialled
	over   []*dialled
	unsent [2]*segment // what has not arrived, because a gateway died
	sent   *segment    // the last one that has arrived
}

// segment is a message in TCP.
type segment struct {
	from    calls.Side
	b       []byte
	arrives func([]byte) // is called once it has arrived
}

// dialled is a call as its ends see it.
type dialled struct {
	own, public, servers pptp.CallID // servers is 0 before the answer
	ended                bool        // both ends know that it has
}

// given is who was last given a public ID.
type given struct {
	phone *phone
	own   pptp.CallID
	ended time.Time // zero if it has not
}

func newCluster(t *testing.T, rt *rapid.T) *cluster {
	c := &cluster{t: t, rt: rt, now: epoch, publics: []netip.Addr{gatewayAddr, netip.MustParseAddr("198.51.100.2")}, given: map[tag]*given{}, servers: 0x4000}
	for slot := range rapid.IntRange(2, 3).Draw(rt, "gateways") {
		c.gates = append(c.gates, c.newGate(uint8(slot)))
	}
	for i := range c.publics {
		c.at = append(c.at, nil)
		c.move(i)
	}
	return c
}

func (c *cluster) newGate(slot uint8) *gate {
	cfg := calls.DefaultConfig()
	cfg.Slot = slot
	g := &gate{rig: newRig(c.t), c: c, slot: slot, flows: map[calls.Flow]calls.Flow{}}
	g.table = calls.New(cfg)
	g.ed = NewEditor(g.table, DefaultConnections)
	g.ed.Owned(func(conn calls.Connection) bool {
		public, _ := conn.Public()
		return c.at[slices.Index(c.publics, public)] == g
	})
	return g
}

func (c *cluster) step() {
	g := c.gates[rapid.IntRange(0, len(c.gates)-1).Draw(c.rt, "gateway")]
	i := rapid.IntRange(0, len(c.publics)-1).Draw(c.rt, "address")
	switch rapid.SampledFrom([]string{"talk", "talk", "talk", "talk", "talk", "talk", "talk", "dial", "again", "read", "read", "write", "audit", "move", "die"}).Draw(c.rt, "step") {
	case "talk":
		c.talk()
	case "dial":
		if len(c.phones) < 6 && c.at[i] != nil {
			c.connect(i)
		}
	case "again":
		c.again()
	case "read":
		g.catchUp(rapid.IntRange(1, 10).Draw(c.rt, "entries"))
	case "write":
		g.write(rapid.IntRange(1, 4).Draw(c.rt, "entries"))
	case "audit":
		g.audit()
	case "move":
		c.move(i)
	case "die":
		c.die(g)
	}
}

// some draws one of several, nil if there is none.
func some[T any](c *cluster, of []*T, name string) *T {
	if len(of) == 0 {
		return nil
	}
	return of[rapid.IntRange(0, len(of)-1).Draw(c.rt, name)]
}

// connect opens a connection, whose ends greet each other.
func (c *cluster) connect(i int) {
	port := uint16(40000 + len(c.phones))
	g := c.at[i]
	g.now = c.now
	w := g.connect(calls.Connection{
		Original: tuple(insideHost(10+len(c.phones)%3), port, serverAddr, 1723),
		Reply:    tuple(serverAddr, 1723, c.publics[i], port),
	})
	p := &phone{wire: w.handshake(), public: i}
	c.phones = append(c.phones, p)
}

// talk has an end of a connection say something.
func (c *cluster) talk() {
	p := some(c, c.phones, "phone")
	if p == nil {
		return
	}
	switch rapid.SampledFrom([]string{"request", "request", "answer", "answer", "answer", "clear", "notify", "refuse", "echo"}).Draw(c.rt, "word") {
	case "request":
		c.request(p, rapid.SampledFrom([]pptp.CallID{7, 8, 0x0700}).Draw(c.rt, "own"))
	case "answer":
		if x := some(c, p.open, "call"); x != nil && x.servers == 0 {
			c.servers++
			sid := c.servers
			c.say(p, server, message(pptp.OutgoingCallReply, sid, x.public, pptp.ResultOK), func(b []byte) {
				x.servers = sid
				if id, peer := ids(b); id != sid || peer != x.own {
					c.rt.Fatalf("the answer to call %v says %v, %v", x.own, id, peer)
				}
			})
		}
	case "refuse":
		if x := some(c, p.open, "call"); x != nil && x.servers == 0 && p.says(server, x) {
			c.say(p, server, message(pptp.OutgoingCallReply, 0, x.public, 4), func([]byte) { c.ends(p, x) })
		}
	case "clear":
		if x := some(c, p.open, "call"); x != nil && x.servers != 0 && p.says(client, x) {
			c.say(p, client, message(pptp.CallClearRequest, x.own, 0, 0), func(b []byte) {
				if id, _ := ids(b); id != x.public && !x.ended {
					c.rt.Fatalf("the Call-Clear-Request of call %v says %v, want %v", x.own, id, x.public)
				}
				c.ends(p, x)
				p.over = append(p.over, x)
			})
		}
	case "notify":
		x := some(c, append(slices.Clone(p.over), p.open...), "call")
		if x != nil && x.servers != 0 && p.says(server, x) {
			c.say(p, server, message(pptp.CallDisconnectNotify, x.servers, 0, 1), func(b []byte) {
				if id, _ := ids(b); id != x.servers {
					c.rt.Fatalf("the Call-Disconnect-Notify of call %v says %v, want %v", x.own, id, x.servers)
				}
				c.ends(p, x)
				p.over = slices.DeleteFunc(p.over, func(o *dialled) bool { return o == x })
			})
		}
	case "echo":
		c.say(p, rapid.SampledFrom([]calls.Side{client, server}).Draw(c.rt, "side"), message(pptp.EchoRequest, 0, 0, 0), func([]byte) {})
	}
}

// request has the client ask for a call. It has forgotten one of the same ID; but it waits for
// an answer that is under way, because nothing tells which of the two that means.
func (c *cluster) request(p *phone, own pptp.CallID) {
	if p.unsent[server] != nil {
		return
	}
	var former *dialled
	if at := slices.IndexFunc(p.open, func(x *dialled) bool { return x.own == own }); at >= 0 {
		if former = p.open[at]; !p.says(client, former) {
			return
		}
	}
	c.say(p, client, message(pptp.OutgoingCallRequest, own, 0, 0), func(b []byte) {
		public, _ := ids(b)
		if former != nil {
			c.ends(p, former)
		}
		k := c.tag(p, public)
		if last := c.given[k]; last != nil && (last.phone != p || last.own != own) {
			if last.ended.IsZero() {
				c.rt.Fatalf("the public ID %v of call %v of %v is that of call %v of %v", public, own, p.conn.Original, last.own, last.phone.conn.Original)
			}
			if rested := c.now.Sub(last.ended); rested < calls.DefaultConfig().Rest {
				c.rt.Fatalf("the public ID %v is given again after %v", public, rested)
			}
		}
		c.given[k] = &given{phone: p, own: own}
		p.open = append(p.open, &dialled{own: own, public: public})
	})
}

func (c *cluster) tag(p *phone, public pptp.CallID) tag {
	return tag{serverAddr, c.publics[p.public], public}
}

// says records that an end is about to say that a call has ended, and reports false if
// something else must arrive first.
func (p *phone) says(from calls.Side, x *dialled) bool {
	if p.unsent[from] != nil {
		return false
	}
	p.open = slices.DeleteFunc(p.open, func(o *dialled) bool { return o == x })
	return true
}

// ends records that both ends know that a call has ended.
func (c *cluster) ends(p *phone, x *dialled) {
	if k := c.tag(p, x.public); !x.ended {
		x.ended, c.given[k].ended = true, c.now
	}
}

// say sends a message to the gateway that has the address, unless what the end said before
// has not arrived: then that is sent again, and nothing else before it. arrives is called when
// the receiver has it.
func (c *cluster) say(p *phone, from calls.Side, b []byte, arrives func([]byte)) {
	s := p.unsent[from]
	if s == nil {
		s = &segment{from, b, arrives}
	}
	p.unsent[from] = s
	got, ok := c.pass(p, s)
	if !ok {
		return
	}
	p.seq[from] = p.seq[from].Add(len(s.b))
	p.sent, p.unsent[from] = s, nil
	s.arrives(got)
}

// pass has a segment pass at the gateway that has the address, and returns what arrives. The
// gateway may die on the way.
func (c *cluster) pass(p *phone, s *segment) (got []byte, ok bool) {
	g := c.at[p.public]
	if g == nil {
		return nil, false
	}
	dies := rapid.SampledFrom([]string{"no", "no", "no", "no", "no", "no", "no", "no", "before it writes", "before it releases"}).Draw(c.rt, "it dies")
	g.now = c.now
	p.moved(g.rig)
	got = p.ask(s.from, packet.ACK, p.seq[s.from], bytes.Clone(s.b))
	if p.last.Verdict == Drop || p.last.Reason == Elsewhere {
		c.rt.Fatalf("a segment at the owner: %+v", p.last)
	}
	events := slices.Clone(p.last.Events)
	if dies == "before it writes" {
		c.die(g)
		return nil, false
	}
	g.carry(events)
	if dies == "before it releases" {
		c.die(g)
		return nil, false
	}
	return got, true
}

// again sends the last segment of a connection again, which its receiver has and has not
// acknowledged.
func (c *cluster) again() {
	p := some(c, c.phones, "phone")
	if p == nil {
		return
	}
	if s := p.sent; s != nil && p.unsent == [2]*segment{} && c.at[p.public] != nil {
		p.seq[s.from] = p.seq[s.from].Add(-len(s.b))
		c.pass(p, s)
		p.seq[s.from] = p.seq[s.from].Add(len(s.b))
	}
}

// carry has the list and the data path know of events.
func (g *gate) carry(events []calls.Event) {
	for _, e := range events {
		switch e.Kind {
		case calls.Install:
			if old, taken := g.flows[enters(e.Flow)]; taken {
				g.c.rt.Fatalf("gateway %d installs %v where %v is", g.slot, e.Flow, old)
			}
			g.flows[enters(e.Flow)] = e.Flow
		case calls.Remove:
			if g.flows[enters(e.Flow)] != e.Flow {
				g.c.rt.Fatalf("gateway %d removes %v where %v is", g.slot, e.Flow, g.flows[enters(e.Flow)])
			}
			delete(g.flows, enters(e.Flow))
		case calls.Opened, calls.Assigned, calls.SetUp, calls.Noted:
			g.c.list = append(g.c.list, entry{by: g, call: e.Call})
		case calls.Closed:
			g.behind = append(g.behind, entry{by: g, call: e.Call})
		case calls.Gone:
			g.behind = append(g.behind, entry{by: g, call: e.Call, gone: true, at: g.c.now})
		}
	}
}

// write writes some of what is to be written.
func (g *gate) write(most int) {
	n := min(most, len(g.behind))
	g.c.list = append(g.c.list, g.behind[:n]...)
	g.behind = slices.Delete(g.behind, 0, n)
}

// catchUp reads some of the list.
func (g *gate) catchUp(most int) {
	g.now = g.c.now
	for ; g.read < len(g.c.list) && most > 0; most-- {
		e := &g.c.list[g.read]
		g.read++
		switch {
		case e.by == g:
		case e.gone:
			g.ed.Forget(e.call.Number, e.at, g.now)
		default:
			if _, ok := g.ed.Follow(e.call, g.now); !ok {
				g.c.rt.Fatalf("gateway %d does not follow %+v", g.slot, e.call)
			}
		}
		g.carry(g.table.Events())
	}
	g.agrees()
}

// agrees checks that the data path of a gateway has the flows of its calls and no others.
func (g *gate) agrees() {
	needed := map[calls.Flow]bool{}
	records, _ := g.ed.Compare(g.now).Records(len(g.ed.all), nil)
	for _, r := range records {
		for _, f := range r.Flows() {
			needed[enters(f)] = true
			if g.flows[enters(f)] != f {
				g.c.rt.Fatalf("gateway %d translates %v in place of %v", g.slot, g.flows[enters(f)], f)
			}
		}
	}
	if len(needed) != len(g.flows) {
		g.c.rt.Fatalf("gateway %d has %d flows, and its calls need %d", g.slot, len(g.flows), len(needed))
	}
}

// audit compares a gateway's record with its conntrack, which has lost some of what is not
// its own.
func (g *gate) audit() {
	g.now = g.c.now
	var live []calls.Connection
	for _, p := range g.c.phones {
		if g.c.at[p.public] == g || rapid.Bool().Draw(g.c.rt, "conntrack has it") {
			live = append(live, p.conn)
		}
	}
	g.carry(slices.Clone(g.ed.Sweep(live, g.now, g.now)))
	g.agrees()
}

// move has another gateway take over an address.
func (c *cluster) move(i int) {
	from := c.at[i]
	to := some(c, c.gates, "to")
	if to == from {
		return
	}
	if from != nil && rapid.Bool().Draw(c.rt, "it has written all") {
		from.write(len(from.behind))
	}
	to.catchUp(len(c.list))
	c.at[i] = to
	if from != nil {
		from.now = c.now
		from.handOver(c.publics[i])
		from.carry(from.table.Events())
		// The list refuses what comes from it later, as the endings that it has just conceded.
		from.behind = slices.DeleteFunc(from.behind, func(e entry) bool {
			public, _ := e.call.Connection.Public()
			return public == c.publics[i]
		})
		from.agrees()
	}
	to.now = c.now
	to.handOver(c.publics[i])
	to.carry(to.table.Events())
	to.agrees()
	c.check(i)
	checkRolls(c.t, to.ed)
}

// handOver visits all connections of an address.
func (g *gate) handOver(public netip.Addr) {
	for h, more := g.ed.Handover(behind(public)), true; more; {
		_, more = h.Next(3, g.now)
	}
}

// check compares what the owner of an address knows with what the ends were told.
func (c *cluster) check(i int) {
	g := c.at[i]
	records := g.ed.Records()
	for _, p := range c.phones {
		if p.public != i {
			continue
		}
		for _, x := range p.open {
			known := slices.IndexFunc(records, func(r calls.Record) bool {
				return r.Connection.Same(p.conn) && r.Legs[client] == calls.LegRecord{Known: true, Own: x.own, Public: x.public}
			})
			if known < 0 {
				c.rt.Fatalf("gateway %d does not know the call %+v of %v", g.slot, x, p.conn.Original)
			}
			r := records[known]
			if x.servers != 0 && r.Legs[server] != (calls.LegRecord{Known: true, Own: x.servers, Public: x.servers}) {
				c.rt.Fatalf("gateway %d does not know the answer to the call %+v: %+v", g.slot, x, r)
			}
			for _, f := range r.Flows() {
				if g.flows[enters(f)] != f {
					c.rt.Fatalf("gateway %d does not translate %v", g.slot, f)
				}
			}
			if r.State == calls.Clearing {
				c.rt.Fatalf("at gateway %d the call %+v is being cleared", g.slot, x)
			}
		}
	}
}

// die ends a gateway. Another one begins in its slot, with what is in the list.
func (c *cluster) die(g *gate) {
	for i := range c.at {
		if c.at[i] == g {
			c.at[i] = nil
		}
	}
	again := c.newGate(g.slot)
	c.gates[slices.Index(c.gates, g)] = again
	again.catchUp(len(c.list))
}

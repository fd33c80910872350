package conntrack

import (
	"net/netip"
	"time"

	"pptpalg/alg/pptp"
)

// Record is a call as it is kept over a restart of whoever holds the table. The
// kernel's entries cannot tell which two of them belong together, or to whom.
type Record struct {
	Number     uint64 // the call's, see View
	Connection Connection
	PNS        Side
	State      State
	Since      time.Time
	Legs       [2]LegRecord // by Side
}

// LegRecord is one end of a kept call.
type LegRecord struct {
	Known       bool
	Own, Public pptp.CallID
}

// Keep says what a restart is to find of a call.
type Keep struct {
	Record Record
	Gone   bool // nothing: it is over
}

func (c *Call) record() Record {
	r := Record{Number: c.number, Connection: c.control.Connection(), PNS: c.pns, State: c.state, Since: c.since}
	for s := range c.legs {
		r.Legs[s] = LegRecord{Known: c.legs[s].known, Own: c.legs[s].own, Public: c.legs[s].public}
	}
	return r
}

// Flows returns what the kernel is to translate for the call: nothing while it is
// being cleared.
func (r Record) Flows() []Flow {
	if r.State == Clearing {
		return nil
	}
	return r.AllFlows()
}

// AllFlows returns what the kernel was ever asked to translate for the call as it
// is recorded.
func (r Record) AllFlows() []Flow {
	var flows []Flow
	for s := range r.Legs {
		if f, ok := r.FlowTo(Side(s)); ok {
			flows = append(flows, f)
		}
	}
	return flows
}

// FlowTo returns the one of AllFlows that travels to an end, false if there is none.
func (r *Record) FlowTo(s Side) (Flow, bool) {
	l := r.Legs[s]
	if !l.Known || !r.Connection.Translated() {
		return Flow{}, false
	}
	return r.Connection.flow(s, l.Own, l.Public), true
}

// Resume puts a kept call back on its connection. It reports false, and changes
// nothing, if another call has the place of one of its legs.
func (c *Control) Resume(r Record, now time.Time) bool {
	for s, l := range r.Legs {
		if l.Known && (c.table.entering[c.connection.entering(Side(s), l.Public)] != nil || c.table.leaving[c.connection.leaving(Side(s), l.Own)] != nil) {
			return false
		}
	}
	call := c.add(r.PNS, r.PNS, r.Since)
	call.number, call.state = r.Number, r.State
	c.table.opened = max(c.table.opened, r.Number)
	for s, l := range r.Legs {
		if l.Known {
			c.resumeLeg(call, Side(s), l)
		}
	}
	if call.state == Clearing {
		c.table.calls--
		call.client.calls--
		c.table.clearing.push(clearingCall{call, now.Add(clearingTime)})
	}
	c.table.touch(call)
	return true
}

func (c *Control) resumeLeg(call *Call, s Side, r LegRecord) {
	l := &call.legs[s]
	*l = leg{call: call, own: r.Own, public: r.Public, side: s, known: true}
	c.table.entering[c.connection.entering(s, l.public)] = l
	c.table.leaving[c.connection.leaving(s, l.own)] = l
	if !c.spaced(s) {
		return
	}
	c.table.space(c.connection.space(s)).take(l.public)
	if !c.promised(s, l.public.High()) {
		c.pages = append(c.pages, pagePair{s, l.own.High(), l.public.High()})
	}
}

// Has reports whether a call of the table needs the flow.
func (t *Table) Has(f Flow) bool {
	l := t.entering[legKey{as4(f.Src), as4(f.Dst), f.Key, f.Zone}]
	return l != nil && l.call.state != Clearing && l.flow().Unmarked() == f.Unmarked()
}

// Resting is a public Call ID that was freed and may not be given out until a time.
type Resting struct {
	Public, Peer netip.Addr
	Zone         uint16
	ID           pptp.CallID
	Until        time.Time
}

// Resting returns all public IDs that rest.
func (t *Table) Resting() []Resting {
	var all []Resting
	for _, r := range t.resting.items[t.resting.head:] {
		all = append(all, Resting{netip.AddrFrom4(r.space.public), netip.AddrFrom4(r.space.peer), r.space.zone, r.id, r.until})
	}
	return all
}

// Rest keeps a public ID from being given out until it has rested.
func (t *Table) Rest(r Resting) {
	k := spaceKey{as4(r.Public), as4(r.Peer), r.Zone}
	if s := t.space(k); s.free(r.ID) {
		s.take(r.ID)
		t.resting.push(restingID{k, r.ID, r.Until})
	}
}

// RestCall has the public IDs rest of a call that was over at a time.
func (t *Table) RestCall(r Record, at time.Time) {
	for s, l := range r.Legs {
		if end := r.Connection.Endpoint(Side(s)); l.Known && end.Translated() {
			peer := r.Connection.Endpoint(Side(s).Other()).Address
			t.Rest(Resting{end.Public, peer, r.Connection.Zone, l.Public, at.Add(t.cfg.Rest)})
		}
	}
}

// Records returns a copy of all calls of the connection, those too that are being
// cleared.
func (c *Control) Records(records []Record) []Record {
	for _, call := range c.calls {
		records = append(records, call.record())
	}
	return records
}

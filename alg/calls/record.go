package calls

import (
	"time"

	"pptpalg/alg/pptp"
)

// Record is a call as the store keeps it over a restart. The kernel's entries cannot tell
// which two of them belong together, or to whom.
type Record struct {
	Number     uint64 // the call's, see View
	Connection Connection
	PNS        Side
	Asker      Side    // who requested it
	Payer      Side    // who is charged with it: the asker, or the replier if only the reply tells of a request
	Local      [2]bool // ends that are the gateway itself, by Side
	State      State
	Since      time.Time
	Legs       [2]LegRecord // by Side
}

// LegRecord is one end of a kept call.
type LegRecord struct {
	Known       bool
	Own, Public pptp.CallID
}

func (c *Call) record() Record {
	r := Record{Number: c.number, Connection: c.control.Connection(), PNS: c.pns, Asker: c.asker, Payer: c.payer, Local: c.control.local, State: c.state, Since: c.since.time()}
	for s := range c.legs {
		r.Legs[s] = LegRecord{Known: c.legs[s].known, Own: c.legs[s].own, Public: c.legs[s].public}
	}
	return r
}

// Flows returns the flows that the data path translates for the call: none while it is
// being cleared.
func (r Record) Flows() []Flow {
	if r.State == Clearing {
		return nil
	}
	return r.AllFlows()
}

// AllFlows returns all flows that the data path may have for the call as it is recorded.
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
	if !l.Known {
		return Flow{}, false
	}
	return r.Connection.flow(s, l.Own, l.Public), true
}

// Resume puts a kept call back on its connection. It reports false, and changes
// nothing, if another call has one of its IDs.
func (c *Control) Resume(r Record, now time.Time) bool {
	for s, l := range r.Legs {
		if l.Known && !c.free(Side(s), l, nil) {
			return false
		}
	}
	call := c.enterRecord(&r)
	if call.state == Clearing {
		c.table.await(call, now)
	}
	c.table.note(Noted, call)
	return true
}

// enterRecord enters a call as it is recorded.
func (c *Control) enterRecord(r *Record) *Call {
	c.table.numbered(r.Number)
	call := c.add(r.call())
	for s, l := range r.Legs {
		if l.Known {
			c.resumeLeg(call, Side(s), l)
		}
	}
	if call.state == Clearing {
		c.closed(call)
	} else {
		call.charge(1)
	}
	return call
}

// call returns the record as a call without legs.
func (r *Record) call() Call {
	return Call{number: r.Number, asker: r.Asker, payer: r.Payer, pns: r.PNS, since: sinceOf(r.Since), state: r.State}
}

// free reports whether no call but one, which may be nil, has the IDs of a kept leg.
func (c *Control) free(s Side, l LegRecord, but *Call) bool {
	public, own := c.leg(s, l.Public), c.ownLeg(s, l.Own)
	taken := public == nil && c.spaced(s) && l.Public != 0 && c.table.space(c.connection.space(s)).has(l.Public)
	return !taken && public.goes(but) && own.goes(but)
}

// goes reports whether a leg is none, or one of a call that is about to be replaced.
func (l *leg) goes(with *Call) bool { return l == nil || l.call == with }

func (c *Control) resumeLeg(call *Call, s Side, r LegRecord) {
	c.table.place(call, s, assignment{own: r.Own, public: r.Public})
	if h, lies := c.holding(s, r.Public); lies {
		c.table.space(h.spaceKey).take(h.id)
	}
}

// keyOf is how the table finds the leg of a flow.
func keyOf(f Flow) legKey { return legKey{as4(f.Src), as4(f.Dst), f.Key, f.Zone} }

// Has reports whether a call of the table needs the flow.
func (t *Table) Has(f Flow) bool {
	l := t.entering[keyOf(f)]
	return l != nil && l.flow().Unmarked() == f.Unmarked()
}

// Owner returns the connection whose call needs the flow.
func (t *Table) Owner(f Flow) (Connection, bool) {
	if !t.Has(f) {
		return Connection{}, false
	}
	return t.entering[keyOf(f)].call.control.Connection(), true
}

// Records returns a copy of all calls of the connection, including those that are being
// cleared.
func (c *Control) Records(records []Record) []Record {
	for _, call := range c.calls {
		records = append(records, call.record())
	}
	return records
}

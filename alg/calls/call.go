package calls

import (
	"fmt"
	"time"

	"pptpalg/alg/pptp"
)

// State is how far a call has come.
type State uint8

// The states of a call.
//
//	             reply, result 1             (incoming calls: Connected)
//	Requested ──────────────────▶ Answered ──────────────▶ Established
//	    │                             │  outgoing calls: at once  │
//	    └──────────────┬──────────────┴───────────────────────────┘
//	                   │ Call-Clear-Request, Stop-Control-Connection
//	                   ▼
//	               Clearing: no GRE; the IDs are still translated, for the
//	                         Call-Disconnect-Notify that answers
const (
	Requested State = iota
	Answered
	Established
	Clearing
)

var stateNames = [...]string{"requested", "answered", "established", "clearing"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("unknown(%d)", uint8(s))
}

// Cause is why a call ended.
type Cause uint8

// The causes of a call's end.
const (
	Cleared      Cause = iota // Call-Clear-Request
	Disconnected              // Call-Disconnect-Notify
	Refused                   // a reply whose result code is not 1
	Stopped                   // Stop-Control-Connection-Request or -Reply
	Finished                  // TCP: FIN both ways
	Reset                     // TCP: RST
	Expired                   // the control connection's conntrack entry is closed, or gone after that or after a long silence
	Replaced                  // its end requested another call under the same ID, on the same connection
	Idle                      // neither GRE nor control messages for a configured time
	Lost                      // the control connection is lost: its conntrack entry is gone, and TCP did not end
	Operator                  // the gateway's operator ended it

	causes // how many there are
)

var causeNames = [causes]string{"cleared", "disconnected", "refused", "stopped", "finished", "reset", "expired", "replaced", "idle", "lost", "operator"}

// Causes lists every cause.
func Causes() []Cause {
	all := make([]Cause, causes)
	for i := range all {
		all[i] = Cause(i)
	}
	return all
}

func (c Cause) String() string {
	if c < causes {
		return causeNames[c]
	}
	return fmt.Sprintf("unknown(%d)", uint8(c))
}

// Call is one PPTP call: two legs. The second leg is known once the request is answered.
type Call struct {
	control *Control
	number  uint64
	client  *client // of payer
	since   since   // of the request
	legs    [2]leg  // by Side
	index   int32   // in control.calls, -1 once it is forgotten
	asker   Side    // who requested it
	payer   Side    // who is charged with it
	pns     Side
	state   State
}

// since is a time in nanoseconds since 1970, a third of the size of a time.Time; 0 for none.
type since int64

func sinceOf(t time.Time) since {
	if t.IsZero() {
		return 0
	}
	return since(t.UnixNano())
}

func (s since) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(s)).UTC()
}

// leg is one end's half of a call: the Call ID that it assigned, and the public ID, which
// the other end sees in its place.
type leg struct {
	call        *Call
	own, public pptp.CallID
	side        Side
	known       bool
}

// flow is the GRE that travels to the leg's end.
func (l *leg) flow() Flow { return l.call.control.Connection().flow(l.side, l.own, l.public) }

// Party is one end of a call, for readers of the table.
type Party struct {
	Endpoint
	Known       bool        // false while this end has not yet assigned a Call ID
	Own, Public pptp.CallID // valid when Known
}

// View is a copy of a call, for readers of the table.
type View struct {
	Number   uint64 // calls are numbered from 1 as the table opens them; the first byte is the slot: see Config.Slot
	PNS, PAC Party
	State    State
	Since    time.Time
	Control  Tuple // original tuple of the control connection
	Reply    Tuple // its reply tuple
	Flows    []Flow
}

func (c *Call) view() View {
	conn := c.control.Connection()
	v := View{
		Number: c.number,
		PNS:    c.party(conn, c.pns), PAC: c.party(conn, c.pns.Other()),
		State: c.state, Since: c.since.time(), Control: conn.Original, Reply: conn.Reply,
	}
	for s := range c.legs {
		if c.legs[s].known {
			v.Flows = append(v.Flows, c.legs[s].flow())
		}
	}
	return v
}

func (c *Call) party(conn Connection, s Side) Party {
	l := &c.legs[s]
	return Party{
		Endpoint: conn.Endpoint(s),
		Known:    l.known, Own: l.own, Public: l.public,
	}
}

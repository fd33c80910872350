package explain

import (
	"fmt"
	"net/netip"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Report is the explanation for a client: the causes, and the evidence.
type Report struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Client        netip.Addr     `json:"client"`
	Now           schema.Time    `json:"now"`     // of the daemon's clock
	Causes        []Cause        `json:"causes"`  // the most likely one first
	Control       *Control       `json:"control"` // the latest control connection; null if none was seen
	Messages      []Message      `json:"messages"`
	Calls         []CallLine     `json:"calls"` // that live
	Ended         []Ended        `json:"ended"` // calls of the latest control connection that ended, the oldest first
	DataPath      string         `json:"data_path"`
	Rules         string         `json:"rules"` // loaded, missing, unknown
}

// Control is a control connection as its initiator sees it, and as it is translated.
type Control struct {
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	PublicSrc netip.AddrPort `json:"public_src"` // as the other end sees it
	RealDst   netip.AddrPort `json:"real_dst"`   // who answers
	NAT       string         `json:"nat"`        // "source", "destination", "source and destination" or "none"
	Edited    bool           `json:"edited"`
	Reason    string         `json:"reason"` // why it is ignored
	Over      bool           `json:"over"`   // the kernel no longer has it, or TCP has ended
	Last      schema.Time    `json:"last"`   // when something of it was last seen; null if nothing was
}

// Message is a control message that was read.
type Message struct {
	Time   schema.Time `json:"time"`
	From   netip.Addr  `json:"from"`
	Type   string      `json:"message"`
	CallID *ID         `json:"call_id"`      // null where the type has none
	Peer   *ID         `json:"peer_call_id"` // null where the type has none
	Result string      `json:"result"`       // code and words; "" where the type has none
	Error  string      `json:"error"`        // General Error Code and words; "" for none
}

// ID is a Call ID before and after editing.
type ID struct {
	From pptp.CallID `json:"from"`
	To   pptp.CallID `json:"to"`
}

// CallLine is a call that lives.
type CallLine struct {
	Number   uint64      `json:"number"`
	State    string      `json:"state"`
	Since    schema.Time `json:"since"`
	ToClient GRE         `json:"to_client"`
	ToPeer   GRE         `json:"to_peer"`
}

// GRE is what travels to one end of a call.
type GRE struct {
	Translated bool    `json:"translated"` // the data path has the flow
	Packets    *uint64 `json:"packets"`    // null if nothing counts
	Bytes      *uint64 `json:"bytes"`
}

// Ended is a call that has ended.
type Ended struct {
	Number  uint64         `json:"number"`
	Time    schema.Time    `json:"time"`
	Seconds schema.Seconds `json:"seconds"` // since it was asked for
	Cause   string         `json:"reason"`  // see calls.Cause
}

// Absent is the report where no daemon answers, which would know of the client: the cause says why.
func Absent(client netip.Addr, now time.Time, why Cause) Report {
	return Report{Client: client, Now: schema.At(now), Causes: []Cause{why}, DataPath: Unknown, Rules: RulesUnknown.String(),
		Messages: []Message{}, Calls: []CallLine{}, Ended: []Ended{}}
}

// Unknown is the data path of a daemon that does not answer.
const Unknown = "unknown"

// New judges the facts and returns the report.
func New(f Facts) Report {
	r := Report{Client: f.Client, Now: schema.At(f.Now), Causes: Judge(f), DataPath: "kernel", Rules: f.Rules.String(),
		Messages: []Message{}, Calls: []CallLine{}, Ended: []Ended{}}
	if f.OverQueue {
		r.DataPath = "queue"
	}
	for _, e := range f.last() {
		r.take(e)
		r.Control.Over = !f.open(e.Ends)
	}
	if r.Control == nil && len(f.Connections) > 0 {
		c := f.Connections[len(f.Connections)-1]
		r.Control = newControl(history.EndsOf(&c))
		r.Control.Over = c.Closing
		if r.Control.Edited = len(f.Calls) > 0; !r.Control.Edited { // calls without a word are an earlier daemon's
			r.Control.Reason = unseenReason(&c)
		}
	}
	for _, c := range f.Calls {
		r.Calls = append(r.Calls, CallLine{c.Number, c.State.String(), schema.At(c.Since), newGRE(c.ToClient), newGRE(c.ToPeer)})
	}
	return r
}

// unseenReason says why a connection is not edited of which the daemon has seen nothing.
func unseenReason(c *calls.Connection) string {
	if c.Opening {
		return "TCP's handshake has not ended"
	}
	return "not seen by the daemon"
}

func (r *Report) take(e history.Event) {
	if r.Control == nil {
		r.Control = newControl(e.Ends)
		r.Control.Edited = true
	}
	r.Control.Last = schema.At(e.Time)
	switch {
	case e.Kind == history.ConnectionOpened && e.Reason != alg.Read:
		r.Control.Edited, r.Control.Reason = false, e.Reason.String()
	case e.Kind == history.AnomalySeen && e.Anomaly == alg.NotPPTPFound:
		r.Control.Edited, r.Control.Reason = false, alg.NotPPTP.String()
	case e.Kind == history.MessageRead:
		r.Control.Edited, r.Control.Reason = true, ""
		r.Messages = append(r.Messages, newMessage(e))
	case e.Kind == history.CallClosed:
		r.Ended = append(r.Ended, Ended{e.Call.Number, schema.At(e.Time), schema.For(e.Time.Sub(e.Call.Since)), e.Call.Cause.String()})
	}
}

func newControl(ends [2]history.End) *Control {
	from, to := ends[calls.Initiator], ends[calls.Responder]
	c := &Control{Src: from.Address, Dst: to.Public, PublicSrc: from.Public, RealDst: to.Address}
	c.NAT = map[[2]bool]string{
		{true, false}: "source", {false, true}: "destination", {true, true}: "source and destination",
	}[[2]bool{from.Translated(), to.Translated()}]
	if c.NAT == "" {
		c.NAT = "none"
	}
	return c
}

func newMessage(e history.Event) Message {
	m := Message{
		Time: schema.At(e.Time), From: e.Ends[e.From].Address.Addr(), Type: e.Message.Type.String(),
		Result: e.Message.Type.ResultWords(e.Message.Result), Error: pptp.ErrorWords(e.Error),
	}
	l, _ := e.Message.Type.Layout()
	if l.Own != 0 {
		m.CallID = &ID{e.Message.Own.From, e.Message.Own.To}
	}
	if l.Peer != 0 {
		m.Peer = &ID{e.Message.Peer.From, e.Message.Peer.To}
	}
	return m
}

func newGRE(w Way) GRE {
	g := GRE{Translated: w.Present}
	if w.Traffic.Counted {
		g.Packets, g.Bytes = &w.Traffic.Packets, &w.Traffic.Bytes
	}
	return g
}

func (r Rules) String() string {
	switch r {
	case RulesUnknown:
		return "unknown"
	case RulesLoaded:
		return "loaded"
	case RulesMissing:
		return "missing"
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

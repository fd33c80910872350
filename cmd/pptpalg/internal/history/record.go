package history

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Logged are the kinds of events that the translation log has.
var Logged = []Kind{CallRequested, CallTranslated, CallClosed, RulesLost, RulesBack}

// Record is a line of the translation log: who had which public address and ID, from when
// to when. The client is the end that opened the control connection.
type Record struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Time          schema.Time    `json:"time"`
	Event         string         `json:"event"` // opened, translated, closed; rules_lost, rules_back; lost for events that did not fit
	Lost          uint64         `json:"lost,omitempty"`
	*CallRecord
}

// CallRecord is what a Record says of its call. Call IDs are null while they are not
// known.
type CallRecord struct {
	Call         uint64         `json:"call"`
	Client       netip.AddrPort `json:"client"`
	ClientPublic netip.AddrPort `json:"client_public"`
	Server       netip.AddrPort `json:"server"`
	ServerPublic netip.AddrPort `json:"server_public"`
	PNS          string         `json:"pns"` // client or server

	ClientCallID       *pptp.CallID `json:"client_call_id"`
	ClientPublicCallID *pptp.CallID `json:"client_public_call_id"`
	ServerCallID       *pptp.CallID `json:"server_call_id"`
	ServerPublicCallID *pptp.CallID `json:"server_public_call_id"`

	*Closing
}

// Closing is what a Record says of a call that ended. Counts are null if nothing counted,
// and otherwise as of the end: unless they are Approximate, they include everything that
// the gateway translated.
type Closing struct {
	Opened   schema.Time    `json:"opened"` // when it was asked for
	Seconds  schema.Seconds `json:"seconds"`
	Reason   string         `json:"reason"` // see calls.Cause
	ToClient *Count         `json:"to_client"`
	ToServer *Count         `json:"to_server"`

	// Approximate: the counts may be too low. Somebody deleted an entry that counted before
	// it was read, an earlier daemon did the translating and counting, or the fast path was
	// unloaded while no daemon ran.
	Approximate bool `json:"approximate,omitempty"`
}

// Count is the GRE that went one way, bytes with IP headers.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// What Record.Event may be.
const (
	Opened     = "opened"
	Translated = "translated"
	Closed     = "closed"
	Lost       = "lost" // events that did not fit
)

// names of the Logged kinds in Records.
var names = map[Kind]string{CallRequested: Opened, CallTranslated: Translated, CallClosed: Closed, RulesLost: RulesLost.String(), RulesBack: RulesBack.String()}

// NewRecord returns the line for an event of a kind that is Logged.
func NewRecord(e Event) Record {
	if e.Kind == RulesLost || e.Kind == RulesBack {
		return Record{Time: schema.At(e.Time), Event: names[e.Kind]}
	}
	client, server := e.Ends[calls.Initiator], e.Ends[calls.Responder]
	c := &CallRecord{
		Call: e.Call.Number, Client: client.Address, ClientPublic: client.Public, Server: server.Address, ServerPublic: server.Public,
		PNS: [...]string{"client", "server"}[e.Call.PNS&1],
	}
	if l := e.Call.Legs[calls.Initiator]; l.Known {
		c.ClientCallID, c.ClientPublicCallID = &l.Own, &l.Public
	}
	if l := e.Call.Legs[calls.Responder]; l.Known {
		c.ServerCallID, c.ServerPublicCallID = &l.Own, &l.Public
	}
	if e.Kind == CallClosed {
		c.Closing = &Closing{
			Opened: schema.At(e.Call.Since), Seconds: schema.For(e.Time.Sub(e.Call.Since)), Reason: e.Call.Cause.String(),
			ToClient: count(e.Call.Traffic[calls.Initiator]), ToServer: count(e.Call.Traffic[calls.Responder]),
			Approximate: e.Call.Approximate,
		}
	}
	return Record{Time: schema.At(e.Time), Event: names[e.Kind], CallRecord: c}
}

// NewLost returns the line that stands for events that did not fit.
func NewLost(n uint64, at time.Time) Record {
	return Record{Time: schema.At(at), Event: Lost, Lost: n}
}

func count(t calls.Traffic) *Count {
	if !t.Counted {
		return nil
	}
	return &Count{t.Packets, t.Bytes}
}

// String is the line for people: what changes from line to line first.
func (r Record) String() string {
	return r.Time.String() + " " + r.Text()
}

// Text is the line without its time.
func (r Record) Text() string {
	if r.CallRecord == nil && r.Lost == 0 {
		return r.Event
	}
	if r.CallRecord == nil {
		return fmt.Sprintf("%s events=%d", r.Event, r.Lost)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s call=%d client=%v/%s public=%v/%s server=%v/%s", r.Event, r.Call,
		r.Client, idText(r.ClientCallID), r.ClientPublic, idText(r.ClientPublicCallID), r.Server, idText(r.ServerCallID))
	if r.ServerPublic != r.Server || idText(r.ServerPublicCallID) != idText(r.ServerCallID) {
		fmt.Fprintf(&b, " server_public=%v/%s", r.ServerPublic, idText(r.ServerPublicCallID))
	}
	if c := r.Closing; c != nil {
		fmt.Fprintf(&b, " reason=%s seconds=%.3f to_client=%v to_server=%v", c.Reason, c.Seconds, c.ToClient, c.ToServer)
		if c.Approximate {
			b.WriteString(" approximate")
		}
	}
	return b.String()
}

func idText(id *pptp.CallID) string {
	if id == nil {
		return "-"
	}
	return id.String()
}

// String is packets/bytes, "-" if nothing counted.
func (c *Count) String() string {
	if c == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d", c.Packets, c.Bytes)
}

// Field is a part of a Record.
type Field struct{ Name, Value string }

// Fields returns what a Record says beside its time and event, under the names that JSON has.
// What is not known is left out.
func (r Record) Fields() (all []Field) {
	add := func(name string, value any) { all = append(all, Field{name, fmt.Sprint(value)}) }
	if r.Lost > 0 {
		add("lost", r.Lost)
	}
	c := r.CallRecord
	if c == nil {
		return all
	}
	add("call", c.Call)
	add("client", c.Client)
	add("client_public", c.ClientPublic)
	add("server", c.Server)
	add("server_public", c.ServerPublic)
	add("pns", c.PNS)
	for _, id := range []struct {
		name string
		id   *pptp.CallID
	}{{"client_call_id", c.ClientCallID}, {"client_public_call_id", c.ClientPublicCallID}, {"server_call_id", c.ServerCallID}, {"server_public_call_id", c.ServerPublicCallID}} {
		if id.id != nil {
			add(id.name, *id.id)
		}
	}
	if c.Closing == nil {
		return all
	}
	add("opened", c.Opened)
	add("seconds", fmt.Sprintf("%.3f", c.Seconds))
	add("reason", c.Reason)
	for way, n := range []*Count{c.ToClient, c.ToServer} {
		if n != nil {
			name := [...]string{"to_client", "to_server"}[way]
			add(name+"_packets", n.Packets)
			add(name+"_bytes", n.Bytes)
		}
	}
	if c.Approximate {
		add("approximate", true)
	}
	return all
}

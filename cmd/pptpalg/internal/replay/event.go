package replay

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"unique"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Event is a control message, or something else that happened on a control
// connection. A capture may have millions of them, so it is kept small.
type Event struct {
	time      schema.Moment // as Moment has it
	control   *Control
	note      unique.Handle[string] // of what is no message
	packet    uint32
	own, peer id
	kind      pptp.Type // 0 for what is no message
	read      uint8     // bytes of the message that were captured, of those that have its fields
	result    byte
	from      calls.Side
}

// id is a Call ID as captured, and as it is outside the NAT.
type id struct{ seen, public pptp.CallID }

// message returns the event with what a message says.
func (e Event) message(m alg.Message) Event {
	e.kind, e.result, e.read = m.Type, m.Result, uint8(m.Type.Prefix()-m.Missing)
	e.own, e.peer = id{m.Own.From, m.Own.To}, id{m.Peer.From, m.Peer.To}
	return e
}

// noted returns the event with a note.
func (e Event) noted(text string) Event {
	e.note = unique.Make(text)
	return e
}

// At returns when it was captured.
func (e *Event) At() Moment { return Moment{e.time, int(e.packet)} }

// Src returns the sender.
func (e *Event) Src() netip.AddrPort { return e.control.end(e.from) }

// Dst returns the receiver.
func (e *Event) Dst() netip.AddrPort { return e.control.end(e.from.Other()) }

// Message returns the message's name in RFC 2637, "" for what is no message.
func (e *Event) Message() string {
	l, _ := e.kind.Layout()
	return l.Name
}

// Note says what happened, where that is no message.
func (e *Event) Note() string {
	if e.kind != 0 {
		return ""
	}
	return e.note.Value()
}

// CallID returns the sender's own Call ID, nil if the message has none.
func (e *Event) CallID() *ID {
	l, _ := e.kind.Layout()
	return e.id(l.Own, e.own)
}

// Peer returns the Peer's Call ID, nil if the message has none.
func (e *Event) Peer() *ID {
	l, _ := e.kind.Layout()
	return e.id(l.Peer, e.peer)
}

func (e *Event) id(at int, n id) *ID {
	switch {
	case at == 0:
		return nil
	case int(e.read) < at+2:
		return &ID{}
	}
	return &ID{&n.seen, &n.public}
}

// Result returns the result code, nil if the message has none.
func (e *Event) Result() *Result {
	l, _ := e.kind.Layout()
	switch {
	case l.Result == 0:
		return nil
	case int(e.read) <= l.Result:
		return &Result{}
	}
	return &Result{&e.result, e.kind.Result(e.result)}
}

// MarshalJSON writes the event as programs read it.
func (e *Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Moment
		Src     netip.AddrPort `json:"src"`
		Dst     netip.AddrPort `json:"dst"`
		Message string         `json:"message,omitempty"`
		CallID  *ID            `json:"call_id,omitempty"`
		Peer    *ID            `json:"peer_call_id,omitempty"`
		Result  *Result        `json:"result,omitempty"`
		Note    string         `json:"note,omitempty"`
	}{e.At(), e.Src(), e.Dst(), e.Message(), e.CallID(), e.Peer(), e.Result(), e.Note()})
}

// Events are the events of a capture, in their order. They lie in chunks, because a slice
// that grows takes twice the memory.
type Events struct{ chunks [][]Event }

const chunk = 4096

func (all *Events) add(e Event) {
	last := len(all.chunks) - 1
	if last < 0 || len(all.chunks[last]) == chunk {
		all.chunks = append(all.chunks, nil)
		last++
	}
	all.chunks[last] = append(all.chunks[last], e)
}

// All goes over the events.
func (all *Events) All() iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		for _, c := range all.chunks {
			for i := range c {
				if !yield(&c[i]) {
					return
				}
			}
		}
	}
}

// ID is a Call ID in a message: as captured, and as it is outside the NAT; nil if it was not
// captured.
type ID struct {
	Seen   *pptp.CallID `json:"from"`
	Public *pptp.CallID `json:"to"`
}

func (i *ID) String() string {
	switch {
	case i == nil:
		return "-"
	case i.Seen == nil:
		return notCaptured
	case *i.Seen != *i.Public:
		return i.Seen.String() + " → " + i.Public.String()
	}
	return i.Seen.String()
}

// notCaptured stands for a field that was not captured.
const notCaptured = "?"

// Result is the result code of a message.
type Result struct {
	Code  *byte  `json:"code"`  // nil if it was not captured
	Words string `json:"words"` // RFC 2637's, "" for a code that it does not define
}

func (r *Result) String() string {
	switch {
	case r == nil:
		return "-"
	case r.Code == nil:
		return notCaptured
	case r.Words == "":
		return fmt.Sprintf("%d (not in RFC 2637)", *r.Code)
	}
	return fmt.Sprintf("%d (%s)", *r.Code, r.Words)
}

package alg

import (
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// reader finds the messages in one stream. It keeps only the beginning of the message that
// is being read, which has everything that it looks at. So its state has a fixed size,
// whatever the peers send.
type reader struct {
	prefix [pptp.PrefixLen]byte // as its sender wrote it
	have   uint8                // bytes of prefix that were read
	done   uint8                // bytes of prefix whose translation is settled
	sent   byte                 // what was sent for the last settled byte, if that is the first of an ID
	search bool                 // where the next message begins is unknown
	own    Translation          // of the message's own ID, once it is settled
	peer   Translation          // of its peer's ID
	skip   uint16               // bytes behind the prefix that are still to come
	first  pptp.Type            // the type that the stream must begin with, 0 once it has
}

// begin expects the connection's first byte.
func (r *reader) begin(sender calls.Side) {
	*r = reader{first: pptp.StartControlConnectionRequest}
	if sender == calls.Responder {
		r.first = pptp.StartControlConnectionReply
	}
}

// lose gives up the boundaries of messages.
func (r *reader) lose() { *r = reader{search: true} }

// fill takes bytes until the header is complete, or after it the prefix. It returns how many
// it took.
func (r *reader) fill(b []byte) int {
	n := copy(r.prefix[r.have:r.want()], b)
	r.have += uint8(n)
	return n
}

func (r *reader) want() int {
	if r.have < pptp.HeaderLen {
		return pptp.HeaderLen
	}
	return r.message().Type().Prefix()
}

// whole reports whether everything that the editor looks at is read.
func (r *reader) whole() bool { return r.have >= pptp.HeaderLen && int(r.have) == r.want() }

func (r *reader) message() pptp.Message { return r.prefix[:r.have] }

// next goes from the prefix to the message's end.
func (r *reader) next() {
	r.skip = uint16(r.message().Length() - int(r.have))
	r.have, r.done = 0, 0
	r.own, r.peer = Translation{}, Translation{}
}

// settle records the translation of the ID at an offset of the prefix.
func (r *reader) settle(field int, f calls.Field, id Translation) {
	r.done = uint8(field + 2)
	if f == calls.Peers {
		r.peer = id
		return
	}
	r.own = id
}

// shift looks for the header one byte further on.
func (r *reader) shift() {
	r.search = true
	r.have = uint8(copy(r.prefix[:], r.prefix[1:r.have]))
}

// header judges a header that has just become complete. noted is an anomaly to count, if
// there is one.
func (r *reader) header() (noted Anomaly, anomalous bool) {
	kind := r.message().Classify()
	if r.first != 0 && (kind != pptp.Known || r.message().Type() != r.first) {
		return NotPPTPFound, true
	}
	switch {
	case kind == pptp.Known:
		r.first, r.search = 0, false
	case kind == pptp.Opaque && !r.search:
		r.next()
		return BadMessage, true
	default:
		found := r.search
		r.shift()
		return Resynced, !found
	}
	return 0, false
}

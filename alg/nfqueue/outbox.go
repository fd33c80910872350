package nfqueue

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendLimit bounds the bytes of one send, unless a single message is longer. It is
// well below the default of a socket's send buffer (net.core.wmem_default), which
// the kernel refuses to exceed.
const sendLimit = 64 << 10

// outbox gathers rulings into sends, in the order in which they are made. A packet's
// ruling is written into the slot that the packet came in, so the slots must stay
// untouched until flush.
//
// A packet that is accepted without a payload needs no message of its own: one message, for
// all that wait up to an ID, covers consecutive packets with the same ruling. Earlier
// packets have their ruling by then, because the kernel reads messages in order.
type outbox struct {
	queue uint16
	send  func(parts []unix.Iovec) // one datagram; parts are messages of one ruling each
	parts []unix.Iovec
	run   ruling // of the packets accepted last
	place []byte // the slot to write run to, nil without a run
}

func newOutbox(queue uint16, slots int, send func([]unix.Iovec)) *outbox {
	return &outbox{queue: queue, send: send, parts: make([]unix.Iovec, 0, slots)}
}

// accept releases a packet unchanged, or lets it repeat.
func (o *outbox) accept(slot []byte, r ruling) {
	if o.run.verdict != r.verdict || o.run.marks != r.marks || o.run.mark != r.mark {
		o.endRun()
	}
	o.run, o.place = r, slot
}

// modify releases a packet with the payload that is in the slot.
func (o *outbox) modify(slot []byte, at, payload int, r ruling) {
	o.endRun()
	start, end := r.writeBefore(slot, at, payload, o.queue)
	o.add(slot[start:end])
}

// drop drops a packet.
func (o *outbox) drop(slot []byte, r ruling) {
	o.endRun()
	o.add(slot[:r.write(slot, typeVerdict, o.queue)])
}

// flush sends what is gathered. Nothing else sends.
func (o *outbox) flush() {
	o.endRun()
	for rest := o.parts; len(rest) > 0; {
		n := oneSend(rest)
		o.send(rest[:n])
		rest = rest[n:]
	}
	o.parts = o.parts[:0]
}

// discard forgets what is gathered.
func (o *outbox) discard() { o.parts, o.place = o.parts[:0], nil }

// oneSend returns how many of the parts go into one send.
func oneSend(parts []unix.Iovec) int {
	bytes := int(parts[0].Len)
	for i := 1; i < len(parts); i++ {
		bytes += int(parts[i].Len)
		if bytes > sendLimit {
			return i
		}
	}
	return len(parts)
}

func (o *outbox) endRun() {
	if o.place == nil {
		return
	}
	message := o.place[:o.run.write(o.place, typeBatch, o.queue)]
	o.place = nil
	o.add(message)
}

func (o *outbox) add(message []byte) {
	part := unix.Iovec{Base: &message[0]}
	part.SetLen(len(message))
	o.parts = append(o.parts, part)
}

// withoutPayload turns a part that modifies a packet into one that drops it, and
// reports false if it modifies none.
func withoutPayload(part *unix.Iovec) bool {
	message := unsafe.Slice(part.Base, part.Len)
	if messageType(message) != typeVerdict || binary.BigEndian.Uint32(message[atVerdict:]) == nfDrop {
		return false
	}
	native.PutUint32(message, headLen)
	binary.BigEndian.PutUint32(message[atVerdict:], nfDrop)
	part.SetLen(headLen)
	return true
}

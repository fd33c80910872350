package replay

import (
	"encoding/binary"
	"slices"

	"pptpalg/alg"
	"pptpalg/alg/packet"
	"pptpalg/conntrack"
)

// The editor drops a segment ahead of a gap, since TCP sends it again once the gap
// is closed. In a capture it does not come again: it was delivered, or it would
// not be acknowledged. So replay holds it, and sends it again when the capture
// shows the acknowledgement. If the bytes before it came late, it is read then. If
// they never came, whoever captured has missed them, and it is read all the same.

// mostHeld is how many segments of one direction are held.
const mostHeld = 256

// patience is how often at most the editor is shown a segment behind a gap until
// it believes that the gap is closed for its sender.
const patience = 8

// captured is a frame with an IPv4 packet.
type captured struct {
	frame
	at    Moment
	start int // where the packet begins in the frame, bytes
}

// datagram views the packet. That it can be viewed was seen when it was captured.
func (c captured) datagram() datagram {
	d, _ := parseDatagram(c.data[c.start:])
	return d
}

func (c captured) clone() captured {
	c.data = slices.Clone(c.data)
	return c
}

// hold keeps a segment, as it was captured.
func (l *link) hold(from conntrack.Side, c captured) bool {
	if len(l.held[from]) >= mostHeld {
		return false
	}
	l.held[from] = append(l.held[from], c)
	return true
}

// release sends the held segments again that a segment of the other end
// acknowledges.
func (r *run) release(l *link, by conntrack.Side, seg packet.Segment) error {
	from := by.Other()
	if !seg.Flags().Has(packet.ACK) || len(l.held[from]) == 0 {
		return nil
	}
	waiting := l.held[from]
	l.held[from] = nil
	for _, c := range waiting {
		s, err := packet.Parse(c.datagram().whole())
		if err != nil || seg.Ack().Before(s.Seq().Add(len(s.Payload()))) {
			l.hold(from, c)
			continue
		}
		if err := r.again(l, from, c, ack{by: by, seq: seg.Seq(), ack: s.Seq()}); err != nil {
			return err
		}
	}
	return nil
}

// again sends a held segment again. Where the bytes before it will not come, the
// editor is told by an acknowledgement that their receiver has them.
func (r *run) again(l *link, from conntrack.Side, c captured, a ack) error {
	var sent captured
	var out alg.Outcome
	for try := range patience {
		sent = c.clone()
		if out = r.edit(l, from, sent.datagram()); out.Reason == alg.Unread || try == patience-1 && out.Reason == alg.Gap {
			r.acknowledge(l, a)
			sent = c.clone()
			out = r.edit(l, from, sent.datagram())
			r.note(l, from, c.at, "earlier bytes were not captured: read on from here")
		}
		if out.Reason != alg.Gap {
			break
		}
	}
	if out.Verdict == alg.Drop {
		return nil // it stays unread
	}
	r.report.Totals.Behind--
	r.tell(l, from, c, out)
	return r.put(sent.frame)
}

// ack is an acknowledgement that one end could have sent.
type ack struct {
	by       conntrack.Side
	seq, ack packet.Seq
}

// acknowledge shows the editor an acknowledgement without data.
func (r *run) acknowledge(l *link, a ack) {
	t := l.tuple(a.by)
	b := make([]byte, ipMinimum+tcpMinimum)
	b[0], b[ipProtocol] = 4<<4|ipMinimum/4, protocolTCP
	binary.BigEndian.PutUint16(b[ipTotalLen:], uint16(len(b)))
	copy(b[ipSrc:], t.Src.Addr().AsSlice())
	copy(b[ipDst:], t.Dst.Addr().AsSlice())
	h := b[ipMinimum:]
	binary.BigEndian.PutUint16(h[tcpSrcPort:], t.Src.Port())
	binary.BigEndian.PutUint16(h[tcpDstPort:], t.Dst.Port())
	binary.BigEndian.PutUint32(h[tcpSeq:], uint32(a.seq))
	binary.BigEndian.PutUint32(h[tcpAck:], uint32(a.ack))
	h[tcpOffset], h[tcpFlags] = tcpMinimum/4<<4, byte(packet.ACK)
	if seg, err := packet.Parse(b); err == nil {
		l.gateway.editor.Edit(seg, false, r.now)
	}
}

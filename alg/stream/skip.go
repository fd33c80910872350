package stream

import "pptpalg/alg/packet"

// Skip gives up the bytes before a sequence number: they have reached their receiver
// unseen, and will not come. The segment that begins there joins the stream. Skip does
// nothing if no byte before it is missing.
func (s *Stream) Skip(to packet.Seq) {
	if s.joined && to.After(s.next) {
		s.next, s.acked = to, to
		g := s.missing()
		g.blind, g.rejoin = false, true
	}
}

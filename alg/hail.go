package alg

import (
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// hail is a SYN that carries data (TCP Fast Open, RFC 7413). Only the SYN/ACK tells whether
// the receiver accepts the data, and how the connection is translated. Nothing in the data
// has to be translated: no call can be requested before the Start exchange.
type hail struct {
	isn  packet.Seq
	data []byte
}

// mostHails is the maximum number of SYNs that wait for their SYN/ACK. The next one takes
// the place of the oldest.
const mostHails = 256

// hails are the SYNs with data that are not answered yet.
type hails struct {
	byKey map[key]hail
	order []key // the oldest first; some may be gone
}

func (h *hails) add(k key, seg packet.Segment) {
	if h.byKey == nil {
		h.byKey = make(map[key]hail)
	}
	if _, again := h.byKey[k]; !again {
		h.order = append(h.order, k)
	}
	h.byKey[k] = hail{seg.Seq(), append([]byte(nil), seg.Payload()...)}
	for len(h.order) > mostHails {
		delete(h.byKey, h.order[0])
		h.order = append(h.order[:0], h.order[1:]...)
	}
}

// accepted returns the data of a connection's SYN that its receiver acknowledges.
func (h *hails) accepted(k key, ack packet.Seq) []byte {
	syn, known := h.byKey[k]
	if !known {
		return nil
	}
	delete(h.byKey, k)
	n := ack.Sub(syn.isn.Add(1))
	return syn.data[:max(0, min(n, len(syn.data)))]
}

// skim reads bytes that have passed already. It reports false if they are not PPTP.
func (r *reader) skim(b []byte) bool {
	for len(b) > 0 {
		if r.skip > 0 {
			n := min(int(r.skip), len(b))
			r.skip -= uint16(n)
			b = b[n:]
			continue
		}
		headless := r.have < pptp.HeaderLen
		b = b[r.fill(b):]
		if headless && r.have == pptp.HeaderLen {
			if a, anomalous := r.header(); anomalous && a == NotPPTPFound {
				return false
			}
		}
		if r.whole() {
			r.next()
		}
	}
	if r.have >= pptp.HeaderLen { // an ID may have passed, so the rest is not edited either
		r.next()
	}
	return true
}

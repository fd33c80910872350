package packet

// The kinds of TCP option that are a single byte (RFC 9293 section 3.1).
const (
	optionEnd = 0
	optionNOP = 1
)

// MPTCP is the kind of TCP option that begins a Multipath TCP connection, or another
// subflow of one (RFC 8684 section 3).
const MPTCP = 30

// BlankOption writes no-operations over each option of a kind, and adjusts the TCP
// checksum. It reports whether there was one. If the options are malformed it changes
// nothing, because each reader may understand them differently. Kinds 0 and 1 cannot be
// blanked.
func (s Segment) BlankOption(kind byte) bool {
	if kind == optionEnd || kind == optionNOP || !s.eachOption(func(byte, int, int) {}) {
		return false
	}
	found := false
	s.eachOption(func(k byte, at, length int) {
		if k != kind {
			return
		}
		found = true
		for i := range length {
			s.set(at+i, optionNOP)
		}
	})
	return found
}

// eachOption calls see for each option except no-operations, with its place in the TCP
// header, and returns false if one does not fit.
func (s Segment) eachOption(see func(kind byte, at, length int)) bool {
	header := s.header()
	end := s.data - s.tcp
	for at := tcpMinimum; at < end; {
		kind := header[at]
		if kind == optionEnd {
			break
		}
		length := 1
		if kind != optionNOP {
			if at+1 >= end {
				return false
			}
			length = int(header[at+1])
			if length < 2 || at+length > end {
				return false
			}
			see(kind, at, length)
		}
		at += length
	}
	return true
}

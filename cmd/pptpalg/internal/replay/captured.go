package replay

import (
	"math"
	"net/netip"
	"slices"

	"pptpalg/alg/packet"
)

// captured is a frame with an IPv4 packet, in its full length: what was not captured
// reads as zeros, in which no control message begins.
type captured struct {
	frame
	at      Moment
	start   int // where the packet begins in the frame, bytes
	missing int // bytes at the packet's end that were not captured
}

// view views the packet that begins at start. ok is false for what is not IPv4, and where
// not all of its header was captured.
func view(p frame, start int, at Moment) (c captured, ok bool) {
	captured := len(p.data)
	if whole := min(p.Length, start+math.MaxUint16); whole > captured {
		p.data = append(p.data[:captured:captured], make([]byte, whole-captured)...)
	}
	c.frame, c.start, c.at = p, start, at
	ip, err := packet.ParseIPv4(p.data[start:])
	c.missing = max(0, start+ip.Len()-captured)
	return c, err == nil && c.missing <= len(ip.Payload())
}

func (c captured) clone() captured {
	c.data = slices.Clone(c.data)
	return c
}

func (c captured) ip() packet.IPv4 {
	ip, _ := packet.ParseIPv4(c.data[c.start:])
	return ip
}

// payload returns as much of the IP payload as was captured.
func (c captured) payload() []byte {
	all := c.ip().Payload()
	return all[:len(all)-c.missing]
}

// segment views TCP. It is an error where not all of the fixed header was captured.
func (c captured) segment() (packet.Segment, error) {
	if len(c.payload()) < packet.MinimumTCP {
		return packet.Segment{}, packet.ErrLength
	}
	return packet.Parse(c.data[c.start:])
}

// readdress gives the packet other addresses, and its header a checksum.
func (c captured) readdress(src, dst netip.Addr) {
	ip := c.ip()
	ip.SetSrc(src)
	ip.SetDst(dst)
	ip.Sum()
}

// sum writes both checksums anew, since those of a capture may be the ones that a network
// card was to fill in. TCP's needs the whole packet: without it, it stays as it was moved by
// each edit.
func (c captured) sum(seg packet.Segment) {
	c.ip().Sum()
	if c.missing == 0 {
		seg.Sum()
	}
}

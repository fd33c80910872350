package replay

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"pptpalg/alg/packet"
)

// captured is a frame with an IPv4 packet, in its full length: what was not captured is
// counted, and nobody reads it.
type captured struct {
	frame
	at      Moment
	start   int // where the packet begins in the frame, bytes
	missing int // bytes at the packet's end that were not captured
}

// Lengths of IPv4, in bytes.
const (
	leastIP = 20
	mostIP  = 8 * 65535 // of a packet that a card was to cut (Linux's GSO_MAX_SIZE)
)

// view views the packet that begins at start of a frame. If it is not whole, it is put
// together in memory, where the next one overwrites it. cut tells, where there is no packet
// to view, whether its header was not captured, or is broken.
func view(p frame, start int, memory *[]byte) (c captured, cut, ok bool) {
	there := p.data[start:]
	cut = p.Length > len(p.data)
	if len(there) < leastIP {
		return captured{}, cut, false
	}
	whole := p.Length - start
	if total := int(binary.BigEndian.Uint16(there[2:])); total > 0 {
		whole = min(whole, max(total, len(there)))
	}
	if whole > mostIP {
		return captured{}, false, false
	}
	c = captured{frame: p, start: start}
	if cut && whole > len(there) {
		*memory = append((*memory)[:0], p.data...)
		*memory = slices.Grow(*memory, start+whole-len(p.data))[:start+whole]
		clear((*memory)[len(p.data):])
		c.data = *memory
	}
	ip, err := packet.ParseCaptured(c.data[start:])
	if err != nil {
		return captured{}, false, false
	}
	if c.missing = max(0, ip.Len()-len(there)); c.missing > len(ip.Payload()) {
		return captured{}, true, false
	}
	return c, cut, true
}

// keep returns the frame as it is now, for after the next one. It has only what was captured.
func (c captured) keep() frame {
	c.data = slices.Clone(c.data[:c.CaptureLength])
	return c.frame
}

func (c captured) ip() packet.IPv4 {
	ip, _ := packet.ParseCaptured(c.data[c.start:])
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
	return c.ip().Segment()
}

// lacks returns how many bytes of the segment's payload were not captured.
func (c captured) lacks(seg packet.Segment) int { return min(c.missing, len(seg.Payload())) }

// readdress gives the packet other addresses, and its header a checksum.
func (c captured) readdress(src, dst netip.Addr) {
	ip := c.ip()
	ip.SetSrc(src)
	ip.SetDst(dst)
	ip.Sum()
}

// sum writes both checksums anew, since those of a capture may be the ones that a network
// card was to fill in. TCP's needs the whole packet, and the one that is sent: without it,
// it stays as it was moved by each edit.
func (c captured) sum(seg packet.Segment) {
	ip := c.ip()
	ip.Sum()
	if c.missing == 0 && !ip.Offloaded() {
		seg.Sum()
	}
}

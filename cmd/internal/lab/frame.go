package lab

import (
	"bufio"
	"fmt"
	"io"
)

// HDLC-like framing (RFC 1662): what pptp and pptpd speak to the pppd beside them.
const (
	frameFlag   = 0x7E
	frameEscape = 0x7D
	frameFlip   = 0x20   // an escaped byte is XORed with it
	fcsInit     = 0xFFFF // RFC 1662 appendix C.2
	fcsGood     = 0xF0B8
	fcsPoly     = 0x8408
)

// EncodeFrame wraps a PPP packet (from the address field on, without FCS) into a
// frame with a flag at both ends. pptp and pptpd drop packets under two bytes.
func EncodeFrame(packet []byte) []byte {
	sum := ^fcs(fcsInit, packet)
	frame := []byte{frameFlag}
	frame = escape(frame, packet)
	frame = escape(frame, []byte{byte(sum), byte(sum >> 8)})
	return append(frame, frameFlag)
}

// escape also hides control characters, which a terminal line may eat.
func escape(frame, b []byte) []byte {
	for _, c := range b {
		if c < 0x20 || c == frameFlag || c == frameEscape {
			frame = append(frame, frameEscape, c^frameFlip)
		} else {
			frame = append(frame, c)
		}
	}
	return frame
}

func fcs(sum uint16, b []byte) uint16 {
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			sum = sum>>1 ^ fcsPoly*(sum&1)
		}
	}
	return sum
}

// FrameReader takes frames off a byte stream. A read error in the middle of a
// frame, such as a deadline, loses nothing: the next call goes on.
type FrameReader struct {
	r       *bufio.Reader
	packet  []byte
	escaped bool
}

// NewFrameReader reads frames from r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: bufio.NewReader(r)} }

// Next returns the next PPP packet, without FCS; it is the caller's. Broken frames
// are skipped, as RFC 1662 section 4.3 says.
func (f *FrameReader) Next() ([]byte, error) {
	for {
		c, err := f.r.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("read frame: %w", err)
		}
		if c != frameFlag {
			f.add(c)
			continue
		}
		if packet, ok := f.finish(); ok {
			return packet, nil
		}
	}
}

func (f *FrameReader) add(c byte) {
	switch {
	case f.escaped:
		f.packet, f.escaped = append(f.packet, c^frameFlip), false
	case c == frameEscape:
		f.escaped = true
	default:
		f.packet = append(f.packet, c)
	}
}

func (f *FrameReader) finish() ([]byte, bool) {
	packet, aborted := f.packet, f.escaped
	f.packet, f.escaped = nil, false
	if aborted || len(packet) < 4 || fcs(fcsInit, packet) != fcsGood {
		return nil, false
	}
	return packet[:len(packet)-2], true
}

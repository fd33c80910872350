package rules

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/net/bpf"
)

// wanted is what predicate has to answer, in the words of its comment.
func wanted(flags byte, payload int) bool {
	return payload > 0 || flags&flagFIN != 0 || flags&flagRST != 0 || flags&flagSYN != 0 && flags&flagACK != 0
}

// wantedPacket is wanted for the bytes of a packet: false for what is malformed,
// unless the flags are there to say otherwise.
func wantedPacket(p []byte) bool {
	if len(p) == 0 {
		return false
	}
	ip := int(p[0]&0x0f) * 4
	if len(p) < ip+14 { // flags are the byte at 13
		return false
	}
	tcp := int(p[ip+12]>>4) * 4
	return wanted(p[ip+13], max(0, len(p)-ip-tcp))
}

// segment describes an IPv4 TCP packet to craft.
type segment struct {
	ip, tcp int // header lengths in bytes, 20 to 60
	flags   byte
	payload int // bytes
}

// eachSegment yields every combination of header lengths, some payload lengths,
// and every step-th combination of flags.
func eachSegment(step int, yield func(segment)) {
	for ip := 20; ip <= 60; ip += 4 {
		for tcp := 20; tcp <= 60; tcp += 4 {
			for _, payload := range []int{0, 1, 2, 3, 1000} {
				for flags := 0; flags < 256; flags += step {
					yield(segment{ip, tcp, byte(flags), payload})
				}
			}
		}
	}
}

// packet returns the segment's bytes, with a valid IP header. Options are
// no-operations, payload bytes 0xff.
func (s segment) packet(src, dst [4]byte) []byte {
	p := make([]byte, s.ip+s.tcp+s.payload)
	p[0] = 4<<4 | byte(s.ip/4)                        // version, header length
	binary.BigEndian.PutUint16(p[2:], uint16(len(p))) // total length
	p[8], p[9] = 64, 6                                // TTL, protocol
	copy(p[12:], src[:])                              // source
	copy(p[16:], dst[:])                              // destination
	fill(p[20:s.ip], 1)                               // IP options
	binary.BigEndian.PutUint16(p[10:], checksum(p[:s.ip]))
	t := p[s.ip:]
	binary.BigEndian.PutUint16(t[0:], 40000) // source port
	binary.BigEndian.PutUint16(t[2:], 1723)  // destination port
	t[12], t[13] = byte(s.tcp/4)<<4, s.flags // data offset, flags
	fill(t[20:s.tcp], 1)                     // TCP options
	fill(t[s.tcp:], 0xff)                    // payload
	return p
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func newVM(t testing.TB) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(predicate)
	if err != nil {
		t.Fatalf("load predicate: %v", err)
	}
	return vm
}

func matches(t testing.TB, vm *bpf.VM, p []byte) bool {
	t.Helper()
	n, err := vm.Run(p)
	if err != nil {
		t.Fatalf("run predicate on %x: %v", p, err)
	}
	return n != 0
}

func TestPredicateEveryCombination(t *testing.T) {
	vm := newVM(t)
	eachSegment(1, func(s segment) {
		if got, want := matches(t, vm, s.packet([4]byte{}, [4]byte{})), wanted(s.flags, s.payload); got != want {
			t.Fatalf("%+v: got %v, want %v", s, got, want)
		}
	})
}

// A segment with data is never missed, and one with nothing but an acknowledgement
// always is, whatever the lengths of headers and data.
func TestPredicateEveryLength(t *testing.T) {
	vm := newVM(t)
	for ip := 20; ip <= 60; ip += 4 {
		for tcp := 20; tcp <= 60; tcp += 4 {
			p := segment{ip: ip, tcp: tcp, flags: flagACK, payload: 1500}.packet([4]byte{}, [4]byte{})
			for payload := range 1501 {
				if got := matches(t, vm, p[:ip+tcp+payload]); got != (payload > 0) {
					t.Fatalf("headers of %d and %d bytes, %d of data: got %v", ip, tcp, payload, got)
				}
			}
		}
	}
}

// malformed are packets that conntrack calls INVALID for their lengths.
func malformed() map[string][]byte {
	full := segment{ip: 24, tcp: 32, flags: flagACK}.packet([4]byte{}, [4]byte{})
	rows := map[string][]byte{"TCP header beyond the end": full[:len(full)-4]}
	for n := 0; n < 14; n++ {
		rows[fmt.Sprintf("%d bytes of TCP", n)] = full[:24+n]
	}
	return rows
}

func TestPredicateMalformed(t *testing.T) {
	vm := newVM(t)
	for name, p := range malformed() {
		if matches(t, vm, p) {
			t.Errorf("%s: matches", name)
		}
	}
	if matches(t, vm, nil) {
		t.Error("empty packet: matches")
	}
}

func FuzzPredicate(f *testing.F) {
	f.Add(segment{ip: 20, tcp: 20, flags: flagSYN}.packet([4]byte{}, [4]byte{}))
	f.Add(segment{ip: 60, tcp: 60, flags: flagACK, payload: 1}.packet([4]byte{}, [4]byte{}))
	for _, p := range malformed() {
		f.Add(p)
	}
	vm := newVM(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, want := matches(t, vm, p), wantedPacket(p); got != want {
			t.Fatalf("%x: got %v, want %v", p, got, want)
		}
	})
}

// The kernel takes at most XT_BPF_MAX_NUM_INSTR instructions.
func TestBytecode(t *testing.T) {
	const want = "14,177 0 0 0,80 0 0 13,69 9 0 5,84 0 0 18,21 7 0 18,80 0 0 12,84 0 0 240," +
		"116 0 0 2,12 0 0 0,7 0 0 0,128 0 0 0,45 0 1 0,6 0 0 1,6 0 0 0"
	if got := bytecode(); got != want {
		t.Errorf("bytecode\n got %s\nwant %s", got, want)
	}
	if len(predicate) > 64 {
		t.Errorf("%d instructions, xt_bpf takes 64", len(predicate))
	}
}

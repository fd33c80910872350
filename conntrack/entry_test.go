package conntrack

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// encodeShown encodes an entry as the kernel shows it: NAT attributes applied to
// the reply tuple and the status, and left out.
func encodeShown(e entry) []byte {
	translate := func(to *netip.AddrPort, nat netip.AddrPort, bit status) {
		if nat.IsValid() && nat.Addr() != to.Addr() {
			*to = netip.AddrPortFrom(nat.Addr(), to.Port())
			e.status |= bit
		}
	}
	translate(&e.reply.Src, e.natDst, statusDstNAT)
	translate(&e.reply.Dst, e.natSrc, statusSrcNAT)
	e.natDst, e.natSrc = netip.AddrPort{}, netip.AddrPort{}
	return createRequest(e).message().Data
}

// attrs encodes what f writes, behind an nfgenmsg header.
func attrs(f func(ae *encoder)) []byte { return request{attrs: f}.message().Data }

func TestDecodeEntryBad(t *testing.T) {
	good := encodeShown(flowEntry(toClient))
	wrongSize := func(typ uint16, nest ...uint16) []byte {
		return attrs(func(ae *encoder) {
			gre(enters(toClient)).encode(ae, ctaTupleOrig)
			gre(enters(toServer)).encode(ae, ctaTupleReply)
			nested(ae, nest, func(ae *encoder) { ae.put(typ, 1, 2, 3) })
		})
	}
	for name, b := range map[string][]byte{
		"empty":                   {},
		"header cut short":        good[:3],
		"header alone":            good[:4],
		"attribute cut short":     good[:len(good)-2],
		"attribute header alone":  good[:6],
		"attribute of length 1":   {2, 0, 0, 0, 1, 0, 1, 0},
		"no reply tuple":          attrs(func(ae *encoder) { gre(enters(toClient)).encode(ae, ctaTupleOrig) }),
		"tuples without address":  attrs(func(ae *encoder) { tuple{}.encode(ae, 1); tuple{}.encode(ae, 2) }),
		"status of 3 bytes":       wrongSize(ctaStatus),
		"mark of 3 bytes":         wrongSize(ctaMark),
		"zone of 3 bytes":         wrongSize(ctaZone),
		"address of 3 bytes":      wrongSize(ctaIPv4Src, ctaTupleOrig, ctaTupleIP),
		"key of 3 bytes":          wrongSize(ctaProtoDstPort, ctaTupleReply, ctaTupleProto),
		"protocol of 3 bytes":     wrongSize(ctaProtoNum, ctaTupleReply, ctaTupleProto),
		"tuple's zone of 3 bytes": wrongSize(ctaTupleZone, ctaTupleReply),
		"TCP state of 3 bytes":    wrongSize(ctaProtoInfoTCPState, ctaProtoInfo, ctaProtoInfoTCP),
	} {
		if e, err := decodeEntry(b); err == nil || e != (entry{}) {
			t.Errorf("%s: decodeEntry() = %+v, %v; want an error and no entry", name, e, err)
		}
	}
}

// The price of an entry in a dump.
func TestDecodeEntryAllocatesNothing(t *testing.T) {
	b := encodeShown(flowEntry(with(toClient, 7, 5)))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := decodeEntry(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("decodeEntry allocates %v times, want none", n)
	}
}

// nested encodes within the attributes of nest, outermost first.
func nested(ae *encoder, nest []uint16, f func(*encoder)) {
	if len(nest) == 0 {
		f(ae)
		return
	}
	ae.nest(nest[0], func(ae *encoder) {
		nested(ae, nest[1:], f)
	})
}

func TestEntryFlowShape(t *testing.T) {
	decoded := func(change func(*entry)) entry {
		e, err := decodeEntry(encodeShown(flowEntry(toClient)))
		if err != nil {
			t.Fatal(err)
		}
		change(&e)
		return e
	}
	for _, tt := range []struct {
		name   string
		change func(*entry)
		want   bool
	}{
		{"as created", func(*entry) {}, true},
		{"offered more status bits", func(e *entry) { e.status |= 1 << 5 }, true},
		{"timeout not fixed", func(e *entry) { e.status &^= statusFixedTimeout }, false},
		{"no reply seen", func(e *entry) { e.status &^= statusSeenReply }, false},
		{"another protocol", func(e *entry) { e.orig.proto = unix.IPPROTO_UDP }, false},
		{"source key", func(e *entry) { e.orig.Src = netip.AddrPortFrom(e.orig.Src.Addr(), 1) }, false},
		{"reply's destination key", func(e *entry) { e.reply.Dst = netip.AddrPortFrom(e.reply.Dst.Addr(), 1) }, false},
		{"without NAT", func(e *entry) { e.status &^= statusNAT }, false},
		{"source NAT too", func(e *entry) { e.status |= statusSrcNAT }, false},
		{"helper", func(e *entry) { e.helper = "pptp" }, false},
		{"another one's zone of the reply", func(e *entry) { e.reply.zone = 1 }, false},
	} {
		e := decoded(tt.change)
		f, ours := e.flow()
		want := calls.Flow{}
		if tt.want {
			want = toClient
		}
		if ours != tt.want || f != want {
			t.Errorf("%s: flow() = %v, %v; want %v, %v", tt.name, f, ours, want, tt.want)
		}
	}
}

// FuzzFlow: what Create sends, and the kernel shows, reads back as the flow.
func FuzzFlow(f *testing.F) {
	f.Add(uint32(0xc0000202), uint32(0xc0000201), uint16(777), uint32(0xc0000202), uint32(0x0a000002), uint16(7), uint16(0), uint32(0))
	f.Add(uint32(0x0a000002), uint32(0xc0000202), uint16(0), uint32(0xc0000201), uint32(0xc0000202), uint16(0), uint16(7), uint32(1))
	f.Add(uint32(1), uint32(2), uint16(3), uint32(1), uint32(2), uint16(4), uint16(5), uint32(6))
	// A key alone that changes at 0.0.0.0, which stands for an address to come.
	f.Add(uint32(1), uint32(0), uint16(3), uint32(1), uint32(0), uint16(99), uint16(5), uint32(1))
	f.Fuzz(func(t *testing.T, src, dst uint32, key uint16, newSrc, newDst uint32, newKey, zone uint16, mark uint32) {
		want := calls.Flow{
			Src: addr(src), Dst: addr(dst), Key: pptp.CallID(key),
			NewSrc: addr(newSrc), NewDst: addr(newDst), NewKey: pptp.CallID(newKey),
			Zone: zone, Mark: mark,
		}
		if checkFlow(want) != nil {
			return // not a flow that Create takes
		}
		roundTrip(t, want)
	})
}

func roundTrip(t *testing.T, want calls.Flow) {
	t.Helper()
	e, err := decodeEntry(encodeShown(flowEntry(want)))
	if err != nil {
		t.Fatal(err)
	}
	got, ours := e.flow()
	if !ours || got != want {
		t.Fatalf("flow() = %v, %v; want %v", got, ours, want)
	}
}

func addr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// FuzzDecode: no bytes make the decoder panic; what it gives has IPv4 addresses;
// and a flow that it reads is one that Create can write.
func FuzzDecode(f *testing.F) {
	for _, tt := range flowTests {
		f.Add(encodeShown(flowEntry(tt.flow)))
	}
	f.Add(attrs(func(ae *encoder) {
		gre(enters(toClient)).encode(ae, ctaTupleOrig)
		gre(enters(toServer)).encode(ae, ctaTupleReply)
		nested(ae, []uint16{ctaHelp}, func(ae *encoder) { ae.put(ctaHelpName, []byte("pptp\x00")...) })
		nested(ae, []uint16{ctaProtoInfo, ctaProtoInfoTCP}, func(ae *encoder) { ae.put(1, 8) })
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			if e != (entry{}) || !strings.HasPrefix(err.Error(), "decode ") {
				t.Fatalf("decodeEntry() = %+v, %v", e, err)
			}
			return
		}
		c := e.connection()
		if err := checkIPv4(c.Original.Src.Addr(), c.Original.Dst.Addr(), c.Reply.Src.Addr(), c.Reply.Dst.Addr()); err != nil {
			t.Fatal(err)
		}
		if flow, ours := e.flow(); ours {
			roundTrip(t, flow)
		}
	})
}

// FuzzSplit: no datagram makes the cutting panic, and messages lie within it.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 3, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{17, 0, 0, 0, 3, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 3, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, err := split(nil, b)
		if err != nil && msgs != nil {
			t.Fatal("messages beside an error")
		}
		n := 0
		for _, m := range msgs {
			n += unix.NLMSG_HDRLEN + len(m.Data)
			_ = errno(m)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of messages in a datagram of %d", n, len(b))
		}
	})
}

package fastpath

import (
	"encoding/binary"
	"net/netip"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// way is struct way of the programs, and how packets leave. Its numbers are stored as the
// bytes of a packet.
type way struct {
	src, dst uint32
	id       uint16
}

// translation is what becomes of a flow's packets.
type translation struct{ in, out way }

// translationOf returns the translation of a flow, unless it is the kernel's alone.
func translationOf(f calls.Flow) (x translation, carried bool) {
	for _, a := range []netip.Addr{f.Src, f.Dst, f.NewSrc, f.NewDst} {
		if !a.Is4() {
			return translation{}, false
		}
	}
	x = translation{way{stored(f.Src), stored(f.Dst), storedID(f.Key)}, way{stored(f.NewSrc), stored(f.NewDst), storedID(f.NewKey)}}
	return x, f.Zone == 0 && !f.OneWay && x.in != x.out
}

// flow returns the flow of a translation.
func (x translation) flow() calls.Flow {
	return calls.Flow{
		Src: address(x.in.src), Dst: address(x.in.dst), Key: callID(x.in.id),
		NewSrc: address(x.out.src), NewDst: address(x.out.dst), NewKey: callID(x.out.id),
	}
}

// sum is by what the checksum of the header grows with the addresses (RFC 1624).
func (x translation) sum() uint16 {
	var sum uint32
	for _, v := range []uint32{x.out.src, x.out.dst, ^x.in.src, ^x.in.dst} {
		sum += v&0xffff + v>>16
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func (x translation) leaves() fastpathLeaves {
	return fastpathLeaves{Src: x.out.src, Dst: x.out.dst, Id: x.out.id}
}

func stored(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func address(v uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

func storedID(id pptp.CallID) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], uint16(id))
	return binary.NativeEndian.Uint16(b[:])
}

func callID(v uint16) pptp.CallID {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return pptp.CallID(binary.BigEndian.Uint16(b[:]))
}

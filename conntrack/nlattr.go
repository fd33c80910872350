package conntrack

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// An attribute is struct nlattr of linux/netlink.h in the machine's order, and
// its payload, padded to 4 bytes:
//
//	__u16 nla_len   // header and payload, without padding
//	__u16 nla_type  // with NLA_F_NESTED where the payload is attributes
//
// Package netlink has a decoder and an encoder of attributes that allocate for
// each one. A table of 100,000 entries has some three million.

var (
	errAttr = errors.New("attribute cut short")
	errSize = errors.New("attribute of the wrong size")
)

// encoder appends attributes to a message. Numbers are in the network's order, in
// which conntrack reads nearly all.
type encoder struct{ b []byte }

func (e *encoder) head(typ uint16, size int) {
	e.b = binary.NativeEndian.AppendUint16(e.b, uint16(unix.SizeofNlAttr+size))
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
}

func (e *encoder) put(typ uint16, v ...byte) {
	e.head(typ, len(v))
	e.b = append(e.b, v...)
	for len(e.b)%unix.NLA_ALIGNTO != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) put16(typ, v uint16) { e.put(typ, byte(v>>8), byte(v)) }

func (e *encoder) put32(typ uint16, v uint32) {
	e.head(typ, 4)
	e.b = binary.BigEndian.AppendUint32(e.b, v)
}

// putNative32 is put32 in the machine's order.
func (e *encoder) putNative32(typ uint16, v uint32) {
	e.head(typ, 4)
	e.b = binary.NativeEndian.AppendUint32(e.b, v)
}

func (e *encoder) putAddr(typ uint16, a netip.Addr) {
	b := a.As4()
	e.put(typ, b[:]...)
}

// nest writes an attribute whose payload is the attributes that f writes.
func (e *encoder) nest(typ uint16, f func(*encoder)) {
	at := len(e.b)
	e.head(typ|unix.NLA_F_NESTED, 0)
	f(e)
	binary.NativeEndian.PutUint16(e.b[at:], uint16(len(e.b)-at))
}

// walk calls f with each attribute of b, which lies in b, until one fails.
func walk(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return errAttr
		}
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errAttr
		}
		typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := f(typ, b[unix.SizeofNlAttr:length]); err != nil {
			return err
		}
		aligned := (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
		b = b[min(aligned, len(b)):]
	}
	return nil
}

// The readers of a payload set their argument, and do not change it if the payload has the
// wrong size.

func read8[T ~uint8](v []byte, to *T) error {
	if len(v) != 1 {
		return errSize
	}
	*to = T(v[0])
	return nil
}

func read16(v []byte, to *uint16) error {
	if len(v) != 2 {
		return errSize
	}
	*to = binary.BigEndian.Uint16(v)
	return nil
}

func read32[T ~uint32](v []byte, to *T) error {
	if len(v) != 4 {
		return errSize
	}
	*to = T(binary.BigEndian.Uint32(v))
	return nil
}

func readAddr(v []byte, to *netip.AddrPort) error {
	if len(v) != 4 {
		return errSize
	}
	*to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(v)), to.Port())
	return nil
}

func readPort(v []byte, to *netip.AddrPort) error {
	if len(v) != 2 {
		return errSize
	}
	*to = netip.AddrPortFrom(to.Addr(), binary.BigEndian.Uint16(v))
	return nil
}

func read64(v []byte, to *uint64) error {
	if len(v) != 8 {
		return errSize
	}
	*to = binary.BigEndian.Uint64(v)
	return nil
}

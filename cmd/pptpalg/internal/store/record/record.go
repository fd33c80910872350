package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// The kinds of records.
const (
	Kept byte = 1 // a call as it is now
	Gone byte = 2 // a call is over: its number and when
	Rest byte = 3 // a public Call ID that rests
)

const (
	headLen = 2
	sumLen  = 4
)

// Payload lengths, bytes.
const (
	keptLen = 8 + 4*6 + 2 + 4 + 1 + 1 + 8 + 2*5
	goneLen = 8 + 8
	restLen = 4 + 4 + 2 + 2 + 8
)

// Lengths of whole records, bytes.
const (
	KeptSize = headLen + keptLen + sumLen
	RestSize = headLen + restLen + sumLen
)

// wayShift is where the byte of a call's state has the zone's calls.Way. Earlier releases do
// not read a record that has another one than BothWays.
const wayShift = 4

// The byte of a call's sides.
const (
	pnsBit            = 1 << 0 // the PNS is the responder
	disputedBit       = 1 << 1 // conntrack says that the connection has ended
	askerBit          = 1 << 2 // the responder requested the call
	payerBit          = 1 << 3 // the responder is charged with it
	localInitiatorBit = 1 << 4 // the initiator is the gateway itself
	localResponderBit = 1 << 5 // the responder is
	toldBit           = 1 << 6 // these two are known; records of earlier releases do not tell
)

var localBits = [2]byte{calls.Initiator: localInitiatorBit, calls.Responder: localResponderBit}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func sides(r *calls.Record) byte {
	b := flag(r.Connection.Closing, disputedBit) | toldBit
	b |= flag(r.PNS == calls.Responder, pnsBit)
	b |= flag(r.Asker == calls.Responder, askerBit)
	b |= flag(r.Payer == calls.Responder, payerBit)
	for s, local := range r.Local {
		b |= flag(local, localBits[s])
	}
	return b
}

// localOf returns which ends are the gateway itself. Earlier releases kept no calls that NAT
// does not touch, except the gateway's own.
func localOf(bits byte, c *calls.Connection) (local [2]bool) {
	for s := range local {
		local[s] = bits&localBits[s] != 0
		if bits&toldBit == 0 {
			local[s] = !c.Translated()
		}
	}
	return local
}

func sideOf(bit byte) calls.Side {
	if bit != 0 {
		return calls.Responder
	}
	return calls.Initiator
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errCut = errors.New("record is cut off or damaged")

// AppendKept appends the record of a call.
func AppendKept(b []byte, r *calls.Record) []byte {
	start := len(b)
	b = append(b, Kept, keptLen)
	b = binary.BigEndian.AppendUint64(b, r.Number)
	for _, a := range [...]netip.AddrPort{r.Connection.Original.Src, r.Connection.Original.Dst, r.Connection.Reply.Src, r.Connection.Reply.Dst} {
		ip := a.Addr().As4()
		b = append(b, ip[:]...)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	b = binary.BigEndian.AppendUint16(b, r.Connection.Zone)
	b = binary.BigEndian.AppendUint32(b, r.Connection.Mark)
	b = append(b, sides(r), byte(r.State)|byte(r.Connection.Way)<<wayShift)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Since.UnixNano()))
	for _, l := range r.Legs {
		b = append(b, flag(l.Known, 1))
		b = binary.BigEndian.AppendUint16(b, uint16(l.Own))
		b = binary.BigEndian.AppendUint16(b, uint16(l.Public))
	}
	return appendSum(b, start)
}

// AppendGone appends that a call is over.
func AppendGone(b []byte, number uint64, at time.Time) []byte {
	start := len(b)
	b = append(b, Gone, goneLen)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	return appendSum(b, start)
}

// AppendRest appends a public ID that rests.
func AppendRest(b []byte, r calls.Resting) []byte {
	start := len(b)
	b = append(b, Rest, restLen)
	b = append(b, r.Public.AsSlice()...)
	b = append(b, r.Peer.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, r.Zone)
	b = binary.BigEndian.AppendUint16(b, uint16(r.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Until.UnixNano()))
	return appendSum(b, start)
}

func appendSum(b []byte, start int) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// Next splits the first record off, of whatever kind. The error means that the rest is not to
// be read.
func Next(b []byte) (kind byte, payload, rest []byte, err error) {
	if len(b) < headLen || len(b) < headLen+int(b[1])+sumLen {
		return 0, nil, nil, errCut
	}
	n := headLen + int(b[1])
	if crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return 0, nil, nil, errCut
	}
	return b[0], b[headLen:n], b[n+sumLen:], nil
}

// DecodeKept reads the payload of a record Kept. A later release may have written more behind
// what is known.
func DecodeKept(p []byte) (calls.Record, error) {
	if len(p) < keptLen {
		return calls.Record{}, errCut
	}
	f := fields{p}
	r := calls.Record{Number: f.uint64()}
	r.Connection.Original = calls.Tuple{Src: f.addrPort(), Dst: f.addrPort()}
	r.Connection.Reply = calls.Tuple{Src: f.addrPort(), Dst: f.addrPort()}
	r.Connection.Zone = f.uint16()
	r.Connection.Mark = f.uint32()
	side := f.uint8()
	r.PNS, r.Asker, r.Payer = sideOf(side&pnsBit), sideOf(side&askerBit), sideOf(side&payerBit)
	r.Connection.Closing = side&disputedBit != 0
	r.Local = localOf(side, &r.Connection)
	state := f.uint8()
	r.State, r.Connection.Way = calls.State(state&(1<<wayShift-1)), calls.Way(state>>wayShift)
	r.Since = time.Unix(0, int64(f.uint64()))
	for s := range r.Legs {
		r.Legs[s] = calls.LegRecord{Known: f.uint8() != 0, Own: pptp.CallID(f.uint16()), Public: pptp.CallID(f.uint16())}
	}
	if r.State > calls.Clearing || !r.Connection.Way.Valid() {
		return calls.Record{}, errCut
	}
	return r, nil
}

// DecodeGone reads the payload of a record Gone.
func DecodeGone(p []byte) (number uint64, at time.Time, err error) {
	if len(p) < goneLen {
		return 0, time.Time{}, errCut
	}
	f := fields{p}
	return f.uint64(), time.Unix(0, int64(f.uint64())), nil
}

// DecodeRest reads the payload of a record Rest.
func DecodeRest(p []byte) (calls.Resting, error) {
	if len(p) < restLen {
		return calls.Resting{}, errCut
	}
	f := fields{p}
	return calls.Resting{
		Public: f.addr(), Peer: f.addr(), Zone: f.uint16(), ID: pptp.CallID(f.uint16()),
		Until: time.Unix(0, int64(f.uint64())),
	}, nil
}

// fields takes numbers off a payload whose length was checked.
type fields struct{ b []byte }

func (f *fields) take(n int) []byte {
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) uint8() uint8   { return f.take(1)[0] }
func (f *fields) uint16() uint16 { return binary.BigEndian.Uint16(f.take(2)) }
func (f *fields) uint32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) uint64() uint64 { return binary.BigEndian.Uint64(f.take(8)) }

func (f *fields) addr() netip.Addr { return netip.AddrFrom4([4]byte(f.take(4))) }

func (f *fields) addrPort() netip.AddrPort {
	a := f.addr()
	return netip.AddrPortFrom(a, f.uint16())
}

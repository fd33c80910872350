package export

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/vmware/go-ipfix/pkg/entities"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// natEvent of RFC 8158 section 4.3: what a call's GRE is to NAT.
const (
	sessionCreate = 4
	sessionDelete = 5
)

const protocolGRE = 47

// field is an element of a template, and its value for a record.
type field struct {
	name   string
	id     uint16
	kind   entities.IEDataType
	length uint16
	scope  scope
	set    func(entities.InfoElementWithValue, *history.Record)
}

// scope is whose element it is.
type scope uint8

const (
	iana    scope = iota
	reverse       // IANA's, of what travels the other way
	own           // under the enterprise number of the target
)

// reversePEN is that of reverse elements, RFC 5103 section 6.1.
const reversePEN = 29305

const variable = 65535 // length of elements that tell their own

func u8(name string, id uint16, of func(*history.Record) uint8) field {
	return field{name: name, id: id, kind: entities.Unsigned8, length: 1, set: func(e entities.InfoElementWithValue, r *history.Record) { e.SetUnsigned8Value(of(r)) }}
}

func u16(name string, id uint16, of func(*history.Record) uint16) field {
	return field{name: name, id: id, kind: entities.Unsigned16, length: 2, set: func(e entities.InfoElementWithValue, r *history.Record) { e.SetUnsigned16Value(of(r)) }}
}

func u64(name string, id uint16, of func(*history.Record) uint64) field {
	return field{name: name, id: id, kind: entities.Unsigned64, length: 8, set: func(e entities.InfoElementWithValue, r *history.Record) { e.SetUnsigned64Value(of(r)) }}
}

func moment(name string, id uint16, of func(*history.Record) time.Time) field {
	f := u64(name, id, func(r *history.Record) uint64 { return uint64(of(r).UnixMilli()) })
	f.kind = entities.DateTimeMilliseconds
	return f
}

func address(name string, id uint16, of func(*history.Record) netip.AddrPort) field {
	return field{name: name, id: id, kind: entities.Ipv4Address, length: 4, set: func(e entities.InfoElementWithValue, r *history.Record) {
		a := of(r).Addr().As4()
		e.SetIPAddressValue(net.IP(a[:]))
	}}
}

// ours is an element under the enterprise number.
func ours(f field) field {
	f.scope = own
	return f
}

// back is an element of what travels from the server to the client.
func back(f field) field {
	f.scope = reverse
	return f
}

func id(known *pptp.CallID) uint16 {
	if known == nil {
		return 0
	}
	return uint16(*known)
}

// begun is when a call's GRE began to be translated.
func begun(r *history.Record) time.Time {
	if r.Closing != nil {
		return r.Opened.Time
	}
	return r.Time.Time
}

// called are the fields of every call. A call's GRE has no ports: as in the kernel's and
// other vendors' NAT tables, the Call IDs stand in their place.
var called = []field{
	moment("observationTimeMilliseconds", 323, func(r *history.Record) time.Time { return r.Time.Time }),
	moment("flowStartMilliseconds", 152, begun),
	u8("natEvent", 230, func(r *history.Record) uint8 {
		if r.Closing != nil {
			return sessionDelete
		}
		return sessionCreate
	}),
	u8("protocolIdentifier", 4, func(*history.Record) uint8 { return protocolGRE }),
	address("sourceIPv4Address", 8, func(r *history.Record) netip.AddrPort { return r.Client }),
	address("postNATSourceIPv4Address", 225, func(r *history.Record) netip.AddrPort { return r.ClientPublic }),
	address("destinationIPv4Address", 12, func(r *history.Record) netip.AddrPort { return r.ServerPublic }),
	address("postNATDestinationIPv4Address", 226, func(r *history.Record) netip.AddrPort { return r.Server }),
	u16("sourceTransportPort", 7, func(r *history.Record) uint16 { return id(r.ClientCallID) }),
	u16("postNAPTSourceTransportPort", 227, func(r *history.Record) uint16 { return id(r.ClientPublicCallID) }),
	u16("destinationTransportPort", 11, func(r *history.Record) uint16 { return id(r.ServerPublicCallID) }),
	u16("postNAPTDestinationTransportPort", 228, func(r *history.Record) uint16 { return id(r.ServerCallID) }),
	ours(u64("pptpCallNumber", 1, func(r *history.Record) uint64 { return r.Call })),
	ours(u16("pptpClientCallId", 2, func(r *history.Record) uint16 { return id(r.ClientCallID) })),
	ours(u16("pptpClientPublicCallId", 3, func(r *history.Record) uint16 { return id(r.ClientPublicCallID) })),
	ours(u16("pptpServerCallId", 4, func(r *history.Record) uint16 { return id(r.ServerCallID) })),
	ours(u16("pptpServerPublicCallId", 5, func(r *history.Record) uint16 { return id(r.ServerPublicCallID) })),
	ours(u16("pptpClientControlPort", 6, func(r *history.Record) uint16 { return r.Client.Port() })),
	ours(u16("pptpClientPublicControlPort", 7, func(r *history.Record) uint16 { return r.ClientPublic.Port() })),
	ours(u16("pptpServerControlPort", 8, func(r *history.Record) uint16 { return r.Server.Port() })),
	ours(u16("pptpServerPublicControlPort", 9, func(r *history.Record) uint16 { return r.ServerPublic.Port() })),
}

// ended are further fields of calls that ended.
var ended = []field{
	moment("flowEndMilliseconds", 153, func(r *history.Record) time.Time { return r.Time.Time }),
	ours(field{name: "pptpEndReason", id: 10, kind: entities.String, length: variable, set: func(e entities.InfoElementWithValue, r *history.Record) { e.SetStringValue(r.Reason) }}),
}

// counted are further fields of calls that ended and were counted: from client to server, and
// the other way (RFC 5103).
var counted = []field{
	u64("octetDeltaCount", 1, func(r *history.Record) uint64 { return r.ToServer.Bytes }),
	u64("packetDeltaCount", 2, func(r *history.Record) uint64 { return r.ToServer.Packets }),
	back(u64("reverseOctetDeltaCount", 1, func(r *history.Record) uint64 { return r.ToClient.Bytes })),
	back(u64("reversePacketDeltaCount", 2, func(r *history.Record) uint64 { return r.ToClient.Packets })),
	ours(u8("pptpApproximate", 11, func(r *history.Record) uint8 {
		if r.Approximate {
			return 1
		}
		return 0
	})),
}

// Template numbers are from 256 on.
const (
	createTemplate  = 256
	deleteTemplate  = 257
	countedTemplate = 258
)

var templates = []struct {
	number uint16
	fields [][]field
}{
	{createTemplate, [][]field{called}},
	{deleteTemplate, [][]field{called, ended}},
	{countedTemplate, [][]field{called, ended, counted}},
}

// templateOf returns the place in templates for a record, -1 for none: before both Call IDs
// are known, no GRE passes.
func templateOf(r *history.Record) int {
	switch {
	case r.CallRecord == nil, r.ClientCallID == nil, r.ServerCallID == nil:
		return -1
	case r.Closing == nil && r.Event != history.Translated:
		return -1
	case r.Closing == nil:
		return 0
	case r.ToClient == nil || r.ToServer == nil:
		return 1
	}
	return 2
}

// ipfix writes messages of RFC 7011. A datagram has all templates, so that a collector that
// was started later, or has missed one, understands it.
type ipfix struct {
	domain     uint32
	enterprise uint32
	stream     bool
	templates  []byte // the set of all of them
	sequence   uint32 // data records so far
	now        func() time.Time
}

func newIPFIX(t *Target) format {
	x := &ipfix{domain: t.domain, enterprise: t.enterprise, stream: t.kind.network == "tcp", now: time.Now}
	set := entities.NewSet(false)
	must(set.PrepareSet(entities.Template, entities.TemplateSetID))
	for i := range templates {
		must(set.AddRecord(x.elements(i, nil), templates[i].number))
	}
	x.templates = bytesOf(set)
	return x
}

// elements are those of a template, with the values of a record if there is one.
func (x *ipfix) elements(template int, r *history.Record) (all []entities.InfoElementWithValue) {
	for _, fields := range templates[template].fields {
		for _, f := range fields {
			if f.scope == own && x.enterprise == 0 {
				continue
			}
			enterprise := [...]uint32{iana: 0, reverse: reversePEN, own: x.enterprise}[f.scope]
			element := entities.NewInfoElement(f.name, f.id, f.kind, enterprise, f.length)
			e, err := entities.DecodeAndCreateInfoElementWithValue(element, nil)
			must(err)
			if r != nil {
				f.set(e, r)
			}
			all = append(all, e)
		}
	}
	return all
}

// payload is a data set, or the number of records that were lost.
func (x *ipfix) payload(r *history.Record) []byte {
	if r.Event == history.Lost {
		return binary.BigEndian.AppendUint32(nil, uint32(r.Lost))
	}
	template := templateOf(r)
	if template < 0 {
		return nil
	}
	set := entities.NewSet(false)
	must(set.PrepareSet(entities.Data, templates[template].number))
	must(set.AddRecord(x.elements(template, r), templates[template].number))
	return bytesOf(set)
}

func bytesOf(set entities.Set) []byte {
	set.UpdateLenInHeader()
	b := append([]byte(nil), set.GetHeaderBuffer()...)
	for _, r := range set.GetRecords() {
		record, err := r.GetBuffer()
		must(err)
		b = append(b, record...)
	}
	return b
}

// start begins a connection, whose records are counted from 0.
func (x *ipfix) start() []byte {
	if !x.stream {
		return nil
	}
	x.sequence = 0
	return x.message(x.templates)
}

// frame returns a message. Records that were lost leave a gap in the sequence numbers, which
// is how IPFIX tells of them.
func (x *ipfix) frame(payload []byte) []byte {
	if len(payload) == 4 {
		x.sequence += binary.BigEndian.Uint32(payload)
		return nil
	}
	defer func() { x.sequence++ }()
	if x.stream {
		return x.message(payload)
	}
	return x.message(x.templates, payload)
}

func (x *ipfix) message(sets ...[]byte) []byte {
	length := entities.MsgHeaderLength
	for _, set := range sets {
		length += len(set)
	}
	m := entities.NewMessage(false)
	m.SetVersion(10)
	m.SetMessageLen(uint16(length))
	m.SetExportTime(uint32(x.now().Unix()))
	m.SetSequenceNum(x.sequence)
	m.SetObsDomainID(x.domain)
	b := append(make([]byte, 0, length), m.GetMsgHeader()...)
	for _, set := range sets {
		b = append(b, set...)
	}
	return b
}

// must is for errors of elements that are wrong in the tables above.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

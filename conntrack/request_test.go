package conntrack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"pptpalg/alg/calls"
)

// bothTranslated is a connection of which both ends are translated.
var bothTranslated = calls.Connection{
	Original: calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("10.0.0.1:1724")},
	Reply:    calls.Tuple{Src: netip.MustParseAddrPort("192.0.2.2:1723"), Dst: netip.MustParseAddrPort("192.0.2.1:40000")},
	Zone:     7, Mark: 5,
}

// The requests, byte for byte, as a little-endian machine sends them: netlink's
// own headers are in the machine's order, and what conntrack reads in the
// network's.
var requestTests = []struct {
	name string
	req  request
	want [][]byte
}{{
	name: "create server to client",
	req:  createRequest(flowEntry(with(toClient, 0, 5))),
	want: [][]byte{
		{0xa8, 0, 0, 0}, {0x00, 0x01}, {0x05, 0x06}, // length 168; IPCTNL_MSG_CT_NEW; REQUEST ACK EXCL CREATE
		{0, 0, 0, 0}, {0, 0, 0, 0}, // sequence, port: the socket's
		{2, 0, 0, 0},                 // AF_INET, version 0, no resource
		{0x34, 0, 0x01, 0x80},        // CTA_TUPLE_ORIG, nested
		{0x14, 0, 0x01, 0x80},        // CTA_TUPLE_IP, nested
		{8, 0, 1, 0}, {192, 0, 2, 2}, // CTA_IP_V4_SRC
		{8, 0, 2, 0}, {192, 0, 2, 1}, // CTA_IP_V4_DST
		{0x1c, 0, 0x02, 0x80},       // CTA_TUPLE_PROTO, nested
		{5, 0, 1, 0}, {47, 0, 0, 0}, // CTA_PROTO_NUM: GRE, padded
		{6, 0, 2, 0}, {0, 0, 0, 0}, // CTA_PROTO_SRC_PORT: key 0, padded
		{6, 0, 3, 0}, {0x03, 0x09, 0, 0}, // CTA_PROTO_DST_PORT: key 777, padded
		{0x34, 0, 0x02, 0x80},        // CTA_TUPLE_REPLY, nested
		{0x14, 0, 0x01, 0x80},        // CTA_TUPLE_IP: untranslated
		{8, 0, 1, 0}, {192, 0, 2, 1}, // CTA_IP_V4_SRC
		{8, 0, 2, 0}, {192, 0, 2, 2}, // CTA_IP_V4_DST
		{0x1c, 0, 0x02, 0x80},       // CTA_TUPLE_PROTO, nested
		{5, 0, 1, 0}, {47, 0, 0, 0}, // CTA_PROTO_NUM: GRE
		{6, 0, 2, 0}, {0, 7, 0, 0}, // CTA_PROTO_SRC_PORT: the new key 7
		{6, 0, 3, 0}, {0, 0, 0, 0}, // CTA_PROTO_DST_PORT: key 0
		{8, 0, 3, 0}, {0, 0, 0x04, 0x0e}, // CTA_STATUS: FIXED_TIMEOUT, CONFIRMED, ASSURED, SEEN_REPLY
		{8, 0, 7, 0}, {0, 0x0d, 0x2f, 0x00}, // CTA_TIMEOUT: 864000 s
		{8, 0, 8, 0}, {0, 0, 0, 5}, // CTA_MARK
		{0x14, 0, 0x0d, 0x80},       // CTA_NAT_DST, nested
		{8, 0, 1, 0}, {10, 0, 0, 2}, // CTA_NAT_V4_MINIP
		{8, 0, 2, 0}, {10, 0, 0, 2}, // CTA_NAT_V4_MAXIP
	},
}, {
	name: "create with both translations in a zone",
	req:  createRequest(flowEntry(with(flow("10.0.0.2 > 192.0.2.1 1000 => 192.0.2.1 > 10.0.0.3 9"), 7, 0))),
	want: [][]byte{
		{0xc4, 0, 0, 0}, {0x00, 0x01}, {0x05, 0x06}, {0, 0, 0, 0}, {0, 0, 0, 0},
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_ORIG
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {192, 0, 2, 1},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {47, 0, 0, 0},
		{6, 0, 2, 0}, {0, 0, 0, 0}, {6, 0, 3, 0}, {0x03, 0xe8, 0, 0},
		{0x34, 0, 0x02, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_REPLY
		{8, 0, 1, 0}, {192, 0, 2, 1}, {8, 0, 2, 0}, {10, 0, 0, 2},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {47, 0, 0, 0},
		{6, 0, 2, 0}, {0, 9, 0, 0}, {6, 0, 3, 0}, {0, 0, 0, 0},
		{8, 0, 3, 0}, {0, 0, 0x04, 0x0e},
		{8, 0, 7, 0}, {0, 0x0d, 0x2f, 0x00},
		{8, 0, 8, 0}, {0, 0, 0, 0},
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE, padded
		{0x14, 0, 0x0d, 0x80}, {8, 0, 1, 0}, {10, 0, 0, 3}, {8, 0, 2, 0}, {10, 0, 0, 3}, // CTA_NAT_DST
		{0x14, 0, 0x06, 0x80}, {8, 0, 1, 0}, {192, 0, 2, 1}, {8, 0, 2, 0}, {192, 0, 2, 1}, // CTA_NAT_SRC
	},
}, {
	name: "the life of a connection's entry",
	req:  lifeRequest(bothTranslated, 300),
	want: [][]byte{
		{0x58, 0, 0, 0}, {0x00, 0x01}, {0x05, 0x00}, {0, 0, 0, 0}, {0, 0, 0, 0}, // length 88; IPCTNL_MSG_CT_NEW; REQUEST ACK, but not CREATE
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_ORIG
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {10, 0, 0, 1},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0}, // TCP
		{6, 0, 2, 0}, {0x04, 0x00, 0, 0}, {6, 0, 3, 0}, {0x06, 0xbc, 0, 0},
		{8, 0, 7, 0}, {0, 0, 0x01, 0x2c}, // CTA_TIMEOUT: 300 s
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE
	},
}, {
	name: "no packet of a connection is invalid",
	req:  looseRequest(bothTranslated, 300),
	want: [][]byte{
		{0x80, 0, 0, 0}, {0x00, 0x01}, {0x05, 0x00}, {0, 0, 0, 0}, {0, 0, 0, 0}, // length 128; IPCTNL_MSG_CT_NEW; REQUEST ACK, but not CREATE
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_ORIG
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {10, 0, 0, 1},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0}, // TCP
		{6, 0, 2, 0}, {0x04, 0x00, 0, 0}, {6, 0, 3, 0}, {0x06, 0xbc, 0, 0},
		{8, 0, 7, 0}, {0, 0, 0x01, 0x2c}, // CTA_TIMEOUT: 300 s
		{0x28, 0, 0x04, 0x80}, {0x24, 0, 0x01, 0x80}, // CTA_PROTOINFO, CTA_PROTOINFO_TCP, without a state
		{5, 0, 2, 0}, {14, 0, 0, 0}, {5, 0, 3, 0}, {14, 0, 0, 0}, // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, _REPLY
		{6, 0, 4, 0}, {0x0b, 0x2b, 0, 0}, {6, 0, 5, 0}, {0x0b, 0x2b, 0, 0}, // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, _REPLY: MAXACK_SET goes
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE
	},
}, {
	name: "revive with both translations",
	req:  createRequest(connectionEntry(bothTranslated, ReviveTimeout)),
	want: [][]byte{
		{0x1c, 0x01, 0, 0}, {0x00, 0x01}, {0x05, 0x06}, {0, 0, 0, 0}, {0, 0, 0, 0}, // length 284; IPCTNL_MSG_CT_NEW; REQUEST ACK EXCL CREATE
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_ORIG
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {10, 0, 0, 1},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0}, // TCP
		{6, 0, 2, 0}, {0x04, 0x00, 0, 0}, {6, 0, 3, 0}, {0x06, 0xbc, 0, 0},
		{0x34, 0, 0x02, 0x80}, {0x14, 0, 0x01, 0x80}, // CTA_TUPLE_REPLY: untranslated
		{8, 0, 1, 0}, {10, 0, 0, 1}, {8, 0, 2, 0}, {10, 0, 0, 2},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0},
		{6, 0, 2, 0}, {0x06, 0xbc, 0, 0}, {6, 0, 3, 0}, {0x04, 0x00, 0, 0},
		{8, 0, 3, 0}, {0, 0, 0, 0x0e}, // CTA_STATUS: CONFIRMED, ASSURED, SEEN_REPLY
		{8, 0, 7, 0}, {0, 0, 0x01, 0x2c}, // CTA_TIMEOUT: 300 s
		{8, 0, 8, 0}, {0, 0, 0, 5}, // CTA_MARK
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE
		{0x28, 0, 0x0d, 0x80}, {8, 0, 1, 0}, {192, 0, 2, 2}, {8, 0, 2, 0}, {192, 0, 2, 2}, // CTA_NAT_DST
		{0x14, 0, 0x03, 0x80},                                              // CTA_NAT_PROTO, nested
		{6, 0, 1, 0}, {0x06, 0xbb, 0, 0}, {6, 0, 2, 0}, {0x06, 0xbb, 0, 0}, // CTA_PROTONAT_PORT_MIN, _MAX: 1723
		{0x28, 0, 0x06, 0x80}, {8, 0, 1, 0}, {192, 0, 2, 1}, {8, 0, 2, 0}, {192, 0, 2, 1}, // CTA_NAT_SRC
		{0x14, 0, 0x03, 0x80},
		{6, 0, 1, 0}, {0x9c, 0x40, 0, 0}, {6, 0, 2, 0}, {0x9c, 0x40, 0, 0}, // 40000
		{0x30, 0, 0x04, 0x80}, {0x2c, 0, 0x01, 0x80}, // CTA_PROTOINFO, CTA_PROTOINFO_TCP
		{5, 0, 1, 0}, {3, 0, 0, 0}, // CTA_PROTOINFO_TCP_STATE: ESTABLISHED
		{5, 0, 2, 0}, {14, 0, 0, 0}, {5, 0, 3, 0}, {14, 0, 0, 0}, // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, _REPLY
		{6, 0, 4, 0}, {0x0b, 0x0b, 0, 0}, {6, 0, 5, 0}, {0x0b, 0x0b, 0, 0}, // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, _REPLY
	},
}, {
	name: "mark",
	req:  markRequest(gre(enters(toServer)), 7, 5),
	want: [][]byte{
		{0x58, 0, 0, 0}, {0x00, 0x01}, {0x05, 0x00}, {0, 0, 0, 0}, {0, 0, 0, 0}, // IPCTNL_MSG_CT_NEW; REQUEST ACK
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80},
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {192, 0, 2, 2},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {47, 0, 0, 0},
		{6, 0, 2, 0}, {0, 0, 0, 0}, {6, 0, 3, 0}, {0, 42, 0, 0},
		{8, 0, 8, 0}, {0, 0, 0, 5}, // CTA_MARK
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE
	},
}, {
	name: "get",
	req: getRequest(tcp(calls.Tuple{
		Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723"),
	}), 0),
	want: [][]byte{
		{0x48, 0, 0, 0}, {0x01, 0x01}, {0x01, 0x00}, {0, 0, 0, 0}, {0, 0, 0, 0}, // IPCTNL_MSG_CT_GET; REQUEST
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80},
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {192, 0, 2, 2},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0}, // TCP
		{6, 0, 2, 0}, {0x04, 0x00, 0, 0}, {6, 0, 3, 0}, {0x06, 0xbb, 0, 0},
	},
}, {
	name: "delete",
	req:  deleteRequest(gre(enters(toServer)), 7, 0x01020304),
	want: [][]byte{
		{0x58, 0, 0, 0}, {0x02, 0x01}, {0x05, 0x00}, {0, 0, 0, 0}, {0, 0, 0, 0}, // IPCTNL_MSG_CT_DELETE; REQUEST ACK
		{2, 0, 0, 0},
		{0x34, 0, 0x01, 0x80}, {0x14, 0, 0x01, 0x80},
		{8, 0, 1, 0}, {10, 0, 0, 2}, {8, 0, 2, 0}, {192, 0, 2, 2},
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {47, 0, 0, 0},
		{6, 0, 2, 0}, {0, 0, 0, 0}, {6, 0, 3, 0}, {0, 42, 0, 0},
		{6, 0, 18, 0}, {0, 7, 0, 0}, // CTA_ZONE
		{8, 0, 12, 0}, {1, 2, 3, 4}, // CTA_ID
	},
}, {
	name: "dump by port",
	req:  dumpRequest(byPort(1723), true),
	want: [][]byte{
		{0x48, 0, 0, 0}, {0x01, 0x01}, {0x01, 0x03}, {0, 0, 0, 0}, {0, 0, 0, 0}, // IPCTNL_MSG_CT_GET; REQUEST DUMP
		{2, 0, 0, 0},
		{0x20, 0, 0x01, 0x80},                             // CTA_TUPLE_ORIG, without addresses
		{0x1c, 0, 0x02, 0x80}, {5, 0, 1, 0}, {6, 0, 0, 0}, // TCP
		{6, 0, 2, 0}, {0, 0, 0, 0}, {6, 0, 3, 0}, {0x06, 0xbb, 0, 0},
		{0x14, 0, 0x19, 0x80},         // CTA_FILTER, nested
		{8, 0, 1, 0}, {0x28, 0, 0, 0}, // CTA_FILTER_ORIG_FLAGS: protocol and destination port
		{8, 0, 2, 0}, {0, 0, 0, 0}, // CTA_FILTER_REPLY_FLAGS: none
	},
}, {
	name: "dump by protocol, filter refused",
	req:  dumpRequest(byProto(47), false),
	want: [][]byte{
		{0x14, 0, 0, 0}, {0x01, 0x01}, {0x01, 0x03}, {0, 0, 0, 0}, {0, 0, 0, 0},
		{2, 0, 0, 0},
	},
}}

func TestRequestBytes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a little-endian machine")
	}
	for _, tt := range requestTests {
		t.Run(tt.name, func(t *testing.T) {
			var o outbox
			o.add(tt.req)
			o.number(0)
			if diff := gocmp.Diff(slices.Concat(tt.want...), o.b); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
		})
	}
}

// message returns a request that is sent alone.
func (r request) message() netlink.Message {
	var o outbox
	o.add(r)
	o.number(0)
	ms, err := split(nil, o.b)
	if err != nil {
		panic(err)
	}
	return ms[0]
}

const ctaTupleMaster = 14 // CTA_TUPLE_MASTER

// No delete may go without a tuple, and no request name a master.
func TestRequestNever(t *testing.T) {
	for _, tt := range requestTests {
		m := tt.req.message()
		attrs, err := netlink.UnmarshalAttributes(m.Data[nfgenmsgLen:])
		if err != nil {
			t.Fatal(err)
		}
		var types []uint16
		for _, a := range attrs {
			types = append(types, a.Type&^netlink.Nested)
		}
		if tt.req.kind == msgDelete && (!slices.Contains(types, ctaTupleOrig) || slices.Contains(types, ctaFilter)) {
			t.Errorf("%s: a delete that empties the table: attributes %v", tt.name, types)
		}
		if slices.Contains(types, ctaTupleMaster) {
			t.Errorf("%s: has CTA_TUPLE_MASTER", tt.name)
		}
	}
}

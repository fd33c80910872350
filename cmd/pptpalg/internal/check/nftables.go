package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// A ruleset of nf_tables, that of iptables' nft backend among them, is copied as the
// kernel tells it: what a dump says of an object is what makes it anew. So whatever the
// kernel can match is copied, whether it is known here or not.

// object is a table, chain, set, … or rule.
type object struct {
	kind   int // unix.NFT_MSG_NEW…
	family uint8
	attrs  attributes
}

// String names an object for people.
func (o object) String() string {
	name := nfproto[o.family] + " " + o.attrs.text(unix.NFTA_TABLE_NAME)
	switch o.kind {
	case unix.NFT_MSG_NEWTABLE:
		return "table " + name
	case unix.NFT_MSG_NEWCHAIN:
		return "chain " + name + " " + o.attrs.text(unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE:
		return fmt.Sprintf("rule with handle %d of %s %s", o.attrs.number(unix.NFTA_RULE_HANDLE), name, o.attrs.text(unix.NFTA_RULE_CHAIN))
	}
	return "set or object " + name + " " + o.attrs.text(unix.NFTA_SET_NAME)
}

// attributes are netlink's, of one object.
type attributes []netlink.Attribute

const typeMask = 0x3fff // the rest are flags

func (all attributes) get(typ uint16) []byte {
	for _, a := range all {
		if a.Type&typeMask == typ {
			return a.Data
		}
	}
	return nil
}

func (all attributes) text(typ uint16) string { return strings.TrimRight(string(all.get(typ)), "\x00") }

// number reads one of up to eight bytes, most significant first.
func (all attributes) number(typ uint16) uint64 {
	n := uint64(0)
	for _, b := range all.get(typ) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (all attributes) nest(typ uint16) attributes { return read(all.get(typ)) }

// value reads one for a register.
func (all attributes) value(typ uint16) []byte { return all.nest(typ).get(unix.NFTA_DATA_VALUE) }

func read(b []byte) attributes {
	found, _ := netlink.UnmarshalAttributes(b) // what cannot be read is as good as not there
	return found
}

func (all attributes) without(types ...uint16) attributes {
	return slices.DeleteFunc(slices.Clone(all), func(a netlink.Attribute) bool { return slices.Contains(types, a.Type&typeMask) })
}

func attr(typ uint16, data []byte) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: data}
}

func attr32(typ uint16, v uint32) netlink.Attribute {
	return attr(typ, binary.BigEndian.AppendUint32(nil, v))
}

func attrText(typ uint16, s string) netlink.Attribute { return attr(typ, append([]byte(s), 0)) }

func nested(typ uint16, inside ...netlink.Attribute) netlink.Attribute {
	return attr(typ|unix.NLA_F_NESTED, attributes(inside).bytes())
}

func (all attributes) bytes() []byte {
	b, err := netlink.MarshalAttributes(all)
	if err != nil {
		panic(err) // an attribute of 64 KiB
	}
	return b
}

// own are the attributes that an object is not made with: the kernel's numbers, and what
// it counts.
var own = map[int][]uint16{
	unix.NFT_MSG_NEWTABLE:     {unix.NFTA_TABLE_FLAGS, unix.NFTA_TABLE_USE, 4, 6, 7},                               // NFTA_TABLE_HANDLE, _USERDATA, _OWNER
	unix.NFT_MSG_NEWCHAIN:     {unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE, unix.NFTA_CHAIN_COUNTERS, 10, 11, 12}, // NFTA_CHAIN_FLAGS, _ID, _USERDATA
	unix.NFT_MSG_NEWSET:       {14, 16, 19, 20},                                                                    // NFTA_SET_PAD, _HANDLE, _TYPE, _COUNT
	unix.NFT_MSG_NEWRULE:      {unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION, unix.NFTA_RULE_EXPRESSIONS},
	unix.NFT_MSG_NEWFLOWTABLE: {4, 5, 7}, // NFTA_FLOWTABLE_USE, _HANDLE, _FLAGS: stand-ins have no hardware for it
}

// nfproto are the families whose chains IPv4 packets meet.
var nfproto = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_NETDEV: "netdev"}

// kinds are what is asked for, in the order in which objects need each other.
var kinds = []int{unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_NEWFLOWTABLE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_NEWRULE}

// nfTables is a socket to the nf_tables of one network namespace.
type nfTables struct{ *netlink.Conn }

func dialNFTables() (nfTables, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nfTables{}, fmt.Errorf("open nf_tables: %w", err)
	}
	const enough = 64 << 20
	_ = errors.Join(c.SetReadBuffer(enough), c.SetWriteBuffer(enough)) // else it is smaller
	return nfTables{c}, nil
}

func message(kind int, family uint8, flags netlink.HeaderFlags, attrs attributes) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs.bytes()...),
	}
}

// dump returns those of the calling thread's namespace.
func dump() ([]object, error) {
	c, err := dialNFTables()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.dump()
}

// dump returns all objects for IPv4. Kernels without nf_tables have none.
func (c nfTables) dump() ([]object, error) {
	var all, sets []object
	for _, kind := range kinds {
		asked := []object{{}}
		if kind == unix.NFT_MSG_NEWSETELEM {
			asked = sets
		}
		for _, of := range asked {
			found, err := c.list(kind, of)
			switch {
			case err == nil:
			case kind == unix.NFT_MSG_NEWTABLE && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)):
				return nil, nil
			case kind == unix.NFT_MSG_NEWFLOWTABLE || kind == unix.NFT_MSG_NEWOBJ: // younger than the rest
			default:
				return nil, fmt.Errorf("list nf_tables: %w", err)
			}
			all = append(all, found...)
			if kind == unix.NFT_MSG_NEWSET {
				sets = found
			}
		}
	}
	return all, nil
}

// list returns all of a kind, or the elements of a set.
func (c nfTables) list(kind int, of object) ([]object, error) {
	get := kind + 1 // NFT_MSG_GET… follows NFT_MSG_NEW…
	var attrs attributes
	if kind == unix.NFT_MSG_NEWSETELEM {
		attrs = attributes{attrText(unix.NFTA_SET_ELEM_LIST_TABLE, of.attrs.text(unix.NFTA_SET_TABLE)), attrText(unix.NFTA_SET_ELEM_LIST_SET, of.attrs.text(unix.NFTA_SET_NAME))}
	}
	answers, err := c.Execute(message(get, of.family, netlink.Dump, attrs))
	if err != nil {
		return nil, err
	}
	var all []object
	for _, m := range answers {
		if len(m.Data) < 4 || int(m.Header.Type)&0xff != kind || nfproto[m.Data[0]] == "" {
			continue
		}
		all = append(all, object{kind: kind, family: m.Data[0], attrs: read(m.Data[4:])})
	}
	return all, nil
}

// home is the name that an object's table has in the copy, where names have to be enough
// to tell tables apart: what the kernel traces does not tell of families.
func (o object) home() string {
	name := o.attrs.text(unix.NFTA_TABLE_NAME) // of the other kinds it is the same attribute
	if o.family == unix.NFPROTO_IPV4 {
		return name
	}
	return nfproto[o.family] + " " + name
}

// anew returns the message that makes the object. id is one for each set.
func (o object) anew(id uint32) netlink.Message {
	attrs := o.attrs.without(own[o.kind]...)
	for i, a := range attrs {
		if a.Type&typeMask == unix.NFTA_TABLE_NAME {
			attrs[i] = attrText(unix.NFTA_TABLE_NAME, o.home())
		}
	}
	flags := netlink.Create | netlink.Acknowledge
	switch o.kind {
	case unix.NFT_MSG_NEWTABLE:
		const dormant = 1
		attrs = append(attrs, attr32(unix.NFTA_TABLE_FLAGS, uint32(o.attrs.number(unix.NFTA_TABLE_FLAGS)&dormant)))
	case unix.NFT_MSG_NEWSET:
		attrs = append(attrs, attr32(unix.NFTA_SET_ID, id))
	case unix.NFT_MSG_NEWRULE:
		flags |= netlink.Append
		attrs = append(attrs, o.expressions()...)
	}
	return message(o.kind, o.family, flags, attrs)
}

// expressions returns what a rule does, as far as it can be copied. Our own queues are left
// out: packets go on in their place, to show what else they would meet. So is nft's tproxy, which
// without a listening proxy ends its rule as if nothing had matched.
func (o object) expressions() attributes {
	var all attributes
	for _, listed := range o.attrs.nest(unix.NFTA_RULE_EXPRESSIONS) {
		e := expressionOf(listed)
		xt := e.data.text(unix.NFTA_TARGET_NAME) // of matches it is the same attribute
		switch {
		case o.ours() && (e.name == "queue" || e.name == "target" && xt == "NFQUEUE"):
		case e.name == "tproxy" || e.name == "target" && slices.Contains(outward, xt):
		case e.name == "match" && xt == "set":
			all = append(all, e.perhaps()...)
		default:
			all = append(all, e.anew(listed))
		}
	}
	made := attributes{nested(unix.NFTA_RULE_EXPRESSIONS, all...)}
	if proto, known := protocolOf(o.exprs()); known {
		made = append(made, nested(unix.NFTA_RULE_COMPAT, attr32(unix.NFTA_RULE_COMPAT_PROTO, uint32(proto)), attr32(unix.NFTA_RULE_COMPAT_FLAGS, 0)))
	}
	return made
}

// outward are targets of iptables that do something outside of their network namespace, and
// the one that fills sets of ipset.
var outward = []string{"AUDIT", "IDLETIMER", "LED", "SET"}

// perhapsMark is that of packets which are in all sets of ipset.
const perhapsMark = 0x00707470

// perhaps asks for a mark in place of a set of ipset, which rules know by a number that the
// copy does not have (struct xt_set_info).
func (e expression) perhaps() attributes {
	equal := equals(binary.NativeEndian.AppendUint32(nil, perhapsMark))
	const flagsAt, inverted = 3, 1
	if info := e.data.get(unix.NFTA_MATCH_INFO); len(info) > flagsAt && info[flagsAt]&inverted != 0 {
		equal = compared(unix.NFT_CMP_NEQ, binary.NativeEndian.AppendUint32(nil, perhapsMark))
	}
	return attributes{makeExpr("meta", attr32(unix.NFTA_META_KEY, unix.NFT_META_MARK), attr32(unix.NFTA_META_DREG, unix.NFT_REG_1)), equal}
}

// compared asks for what has been loaded to be, or not to be, a value.
func compared(op uint32, value []byte) netlink.Attribute {
	return makeExpr("cmp", attr32(unix.NFTA_CMP_SREG, unix.NFT_REG_1), attr32(unix.NFTA_CMP_OP, op), nested(unix.NFTA_CMP_DATA, attr(unix.NFTA_DATA_VALUE, value)))
}

func equals(value []byte) netlink.Attribute { return compared(unix.NFT_CMP_EQ, value) }

func makeExpr(name string, data ...netlink.Attribute) netlink.Attribute {
	return nested(unix.NFTA_LIST_ELEM, attrText(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, data...))
}

func newTable(family uint8, name string) object {
	return object{unix.NFT_MSG_NEWTABLE, family, attributes{attrText(unix.NFTA_TABLE_NAME, name)}}
}

// newChain returns a base chain; devs are the devices of one in family netdev.
func newChain(family uint8, table, name, kind string, hook uint32, prio int32, devs ...netlink.Attribute) object {
	at := attributes{attr32(unix.NFTA_HOOK_HOOKNUM, hook), attr32(unix.NFTA_HOOK_PRIORITY, uint32(prio))}
	if len(devs) > 0 {
		at = append(at, nested(hookDevs, devs...))
	}
	return object{unix.NFT_MSG_NEWCHAIN, family, attributes{
		attrText(unix.NFTA_CHAIN_TABLE, table), attrText(unix.NFTA_CHAIN_NAME, name), attrText(unix.NFTA_CHAIN_TYPE, kind), nested(unix.NFTA_CHAIN_HOOK, at...),
	}}
}

func newRule(table, chain string, expressions attributes) object {
	return object{unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, attributes{
		attrText(unix.NFTA_RULE_TABLE, table), attrText(unix.NFTA_RULE_CHAIN, chain), nested(unix.NFTA_RULE_EXPRESSIONS, expressions...),
	}}
}

// hookDevs is NFTA_HOOK_DEVS.
const hookDevs = 4

// devices are those that a chain or a flow table is bound to.
func (o object) devices() []string {
	const flowtableHook, flowtableDevs = 3, 3 // NFTA_FLOWTABLE_HOOK, _DEVS
	var listed attributes
	switch o.kind {
	case unix.NFT_MSG_NEWCHAIN:
		hook := o.attrs.nest(unix.NFTA_CHAIN_HOOK)
		if listed = hook.nest(hookDevs); len(listed) == 0 && hook.get(unix.NFTA_HOOK_DEV) != nil {
			return []string{hook.text(unix.NFTA_HOOK_DEV)}
		}
	case unix.NFT_MSG_NEWFLOWTABLE:
		listed = o.attrs.nest(flowtableHook).nest(flowtableDevs)
	}
	var all []string
	for _, a := range listed {
		all = append(all, strings.TrimRight(string(a.Data), "\x00"))
	}
	return all
}

// ours says whether a rule is one of the daemon's.
func (o object) ours() bool {
	chain := o.attrs.text(unix.NFTA_RULE_CHAIN)
	return chain == iptables.Chain || chain == iptables.DataChain || o.family == unix.NFPROTO_IPV4 && o.attrs.text(unix.NFTA_RULE_TABLE) == nft.Table
}

// expression is a part of a rule.
type expression struct {
	name string
	data attributes
}

func expressionOf(a netlink.Attribute) expression {
	e := read(a.Data)
	return expression{e.text(unix.NFTA_EXPR_NAME), e.nest(unix.NFTA_EXPR_DATA)}
}

// anew returns what makes an expression like the one that was listed. One that sets a TCP
// option is listed with flags that the kernel refuses (nft_exthdr_tcp_set_init).
func (e expression) anew(listed netlink.Attribute) netlink.Attribute {
	const flags, source = 5, 7 // NFTA_EXTHDR_FLAGS, _SREG
	if e.name != "exthdr" || e.data.get(source) == nil {
		return listed
	}
	return makeExpr(e.name, e.data.without(flags)...)
}

func (o object) exprs() []expression {
	var all []expression
	for _, a := range o.attrs.nest(unix.NFTA_RULE_EXPRESSIONS) {
		all = append(all, expressionOf(a))
	}
	return all
}

// ofProtocol says whether an expression loads the protocol.
func (e expression) ofProtocol() bool {
	const protocolAt = 9 // in the IPv4 header
	return e.name == "meta" && e.data.number(unix.NFTA_META_KEY) == unix.NFT_META_L4PROTO && e.data.get(unix.NFTA_META_DREG) != nil ||
		e.name == "payload" && e.data.number(unix.NFTA_PAYLOAD_BASE) == unix.NFT_PAYLOAD_NETWORK_HEADER && e.data.number(unix.NFTA_PAYLOAD_OFFSET) == protocolAt
}

// protocolOf returns the one that a rule asks for. Matches of iptables want to be told, and
// the kernel does not tell.
func protocolOf(all []expression) (proto uint8, known bool) {
	for i, e := range all[:max(0, len(all)-1)] {
		if next := all[i+1]; e.ofProtocol() && next.name == "cmp" && next.data.number(unix.NFTA_CMP_OP) == unix.NFT_CMP_EQ {
			if v := next.data.nest(unix.NFTA_CMP_DATA).get(unix.NFTA_DATA_VALUE); len(v) > 0 {
				return v[0], true
			}
		}
	}
	return 0, false
}

// create makes objects, all of them or none. With an error it returns which one is refused.
func (c nfTables) create(all []netlink.Message) (refused int, err error) {
	batch := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	sent := slices.Concat([]netlink.Message{batch(unix.NFNL_MSG_BATCH_BEGIN)}, all, []netlink.Message{batch(unix.NFNL_MSG_BATCH_END)})
	if _, err := c.SendMessages(sent); err != nil {
		return 0, err
	}
	if err := c.SetReadDeadline(time.Now().Add(commandTime)); err != nil {
		return 0, err
	}
	for answered := 0; answered < len(all); { // in their order
		answers, err := c.Receive()
		if err != nil {
			return answered, err
		}
		answered += len(answers)
	}
	return 0, nil
}

// copies returns what makes objects in another namespace.
func copies(all []object) []netlink.Message {
	var made []netlink.Message
	for i, o := range all {
		made = append(made, o.anew(uint32(i+1)))
	}
	return made
}

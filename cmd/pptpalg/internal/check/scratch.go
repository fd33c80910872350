package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/internal/netns"
	"pptpalg/conntrack"
)

// scratch is a network namespace of its own with the gateway's rules, addresses and
// routes, and links of the same names and numbers. What leaves by a link ends there.
// Packets are put in as if they had come by one.
type scratch struct {
	ctx   context.Context // bounds how long packets are sent
	place *netns.Place
	rules ruleset // with the handles that the gateway has
	at    map[handle]spot
	trace int // sockets
	send  int
	links map[string]link
	names map[uint32]string // of links, by number
	vrfs  map[uint32]vrf
	ends  []func()

	serial uint16 // of the last packet that was sent
}

// link is a stand-in of one of the gateway's.
type link struct {
	hardware net.HardwareAddr
	far      int // number of its other end
}

// handle names a rule in the copy, and spot says where it is in rules.
type handle struct {
	home   string
	number uint64
}

type spot struct{ chain, rule int }

// surroundings are what is copied beside the rules.
type surroundings struct {
	network network
	devs    map[string]int // numbers of the interfaces that stand-ins are needed for
	bound   map[uint16]bool
	queued  bool // GRE is not tracked: the daemon translates
	accepts bool // and a rule of the daemon's will accept it in FORWARD
	native  bool // in all chains that nftables reaches, in place of iptables' own
}

// farIndex is added to the number of a link for that of its other end.
const farIndex = 1 << 20

// newScratch makes one with rules.
func newScratch(ctx context.Context, s surroundings, l layer) (made *scratch, err error) {
	x := &scratch{ctx: ctx, rules: l.rules, at: map[handle]spot{}, links: map[string]link{}, names: map[uint32]string{}, vrfs: map[uint32]vrf{}}
	if x.place, err = netns.New(); err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	err = x.place.Do(func() error {
		if err := x.connect(ctx, s); err != nil {
			return err
		}
		c, err := dialNFTables()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := x.copyRules(c, l.objects); err != nil {
			return err
		}
		if err := x.observe(c, s); err != nil {
			return err
		}
		return x.listen(s)
	})
	return x, err
}

func (x *scratch) close() {
	for _, end := range x.ends {
		end()
	}
	x.place.Close()
}

// settings are those that packets are not to be lost by: what the gateway has is judged
// by checks of their own. IPv6 would send packets by itself.
var settings = map[string]string{
	"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
	"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1",
}

// connect makes links, addresses, routes and routing rules.
func (x *scratch) connect(ctx context.Context, s surroundings) error {
	for name, value := range settings {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	lines := []string{"link set lo up"}
	for dev, number := range s.devs {
		// Who is set up last can send at once.
		lines = append(lines, fmt.Sprintf("link add %s index %d type veth peer name far%d index %d", standIn(dev), number, number, farIndex+number),
			fmt.Sprintf("link set %s arp off up", standIn(dev)), fmt.Sprintf("link set far%d arp off up", number))
	}
	lines = append(lines, s.makeVRFs()...)
	for _, a := range s.network.addresses {
		lines = append(lines, fmt.Sprintf("addr add %v/32 dev %s noprefixroute", a.addr, standIn(a.dev)))
	}
	for _, r := range s.network.routes {
		lines = append(lines, fmt.Sprintf("route append to %v dev %s table %s", r.prefix, r.dev, orMain(r.table)))
	}
	lines = append(lines, s.ways()...)
	// What needs a link that has no stand-in is left out: no packet is sent there.
	_, err := command(ctx, strings.Join(lines, "\n")+"\n", "ip", "-force", "-batch", "-")
	for dev := range s.devs {
		i, missing := net.InterfaceByName(standIn(dev))
		if missing != nil {
			return fmt.Errorf("make a link for %s: %w", dev, errors.Join(missing, err))
		}
		x.links[dev] = link{hardware: i.HardwareAddr, far: farIndex + i.Index}
		x.names[uint32(i.Index)] = dev
	}
	for _, v := range s.network.vrfs {
		if _, missing := net.InterfaceByName(v.dev); missing != nil {
			return fmt.Errorf("make VRF %s: %w", v.dev, errors.Join(missing, err))
		}
		x.vrfs[uint32(v.index)] = v
	}
	return copyPolicies(s.network.policies)
}

// hostTable has the routes to where packets are sent, so that each goes the way that is to
// be tried, whatever its mark.
const hostTable = 1723

// standIn is the name of a link; one for an interface that is not known has to have one.
func standIn(dev string) string {
	if dev == "" {
		return "elsewhere"
	}
	return dev
}

func orMain(table string) string {
	if table == "" {
		return "main"
	}
	return table
}

// copyRules loads the rules and keeps which is which.
func (x *scratch) copyRules(c nfTables, all []object) error {
	if i, err := c.create(copies(all)); err != nil && len(all) > 0 {
		return fmt.Errorf("copy %v: %w", all[min(i, len(all)-1)], err)
	}
	loaded, err := c.dump()
	seen := map[string]int{}
	for _, o := range loaded {
		if o.kind == unix.NFT_MSG_NEWRULE {
			home, name := o.attrs.text(unix.NFTA_RULE_TABLE), o.attrs.text(unix.NFTA_RULE_CHAIN)
			x.at[handle{home, o.attrs.number(unix.NFTA_RULE_HANDLE)}] = spot{x.rules.index(home, name), seen[home+" "+name]}
			seen[home+" "+name]++
		}
	}
	return err
}

// The chains of the observer that tell how far a packet has come.
const (
	forwarded = "forwarded" // routed to another link, before all rules about that
	gone      = "gone"      // behind all rules
	taken     = "taken"     // by the gateway itself
)

// observerTable traces packets from where they arrive. Its chains of type nat, and its
// question about their state, have the kernel track and translate, whatever the rules.
const observerTable = "observer"

// observer returns it. Where the daemon translates, GRE is not tracked from before the daemon's
// first chain on, as it comes from there for the second time.
func observer(queued bool) []object {
	at := func(name, kind string, hook uint32, prio int32, rules ...attributes) []object {
		made := []object{newChain(unix.NFPROTO_IPV4, observerTable, name, kind, hook, prio)}
		for _, expressions := range rules {
			made = append(made, newRule(observerTable, name, expressions))
		}
		return made
	}
	var untracked []attributes
	if queued {
		untracked = []attributes{append(isGRE(), makeExpr("notrack"))}
	}
	state := attributes{makeExpr("ct", attr32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE), attr32(unix.NFTA_CT_DREG, unix.NFT_REG_1))}
	return slices.Concat([]object{newTable(unix.NFPROTO_IPV4, observerTable)},
		at("arrived", "filter", unix.NF_INET_PRE_ROUTING, math.MinInt32, tracing()),
		at("untracked", "filter", unix.NF_INET_PRE_ROUTING, rawPriority-2, untracked...),
		at(forwarded, "filter", unix.NF_INET_FORWARD, math.MinInt32),
		at(taken, "filter", unix.NF_INET_LOCAL_IN, math.MinInt32),
		at(gone, "filter", unix.NF_INET_POST_ROUTING, math.MaxInt32, state),
		at("translated", "nat", unix.NF_INET_PRE_ROUTING, math.MaxInt32),
		at("retranslated", "nat", unix.NF_INET_POST_ROUTING, math.MaxInt32-1))
}

// observerEarly is for chains of devices. Older kernels have no hook there for several.
func observerEarly(devs map[string]int) []object {
	var all attributes
	for dev := range devs {
		all = append(all, attrText(1, standIn(dev))) // NFTA_DEVICE_NAME
	}
	rule := newRule(observerTable, "early", tracing())
	rule.family = unix.NFPROTO_NETDEV
	const ingress = 0
	return []object{newTable(unix.NFPROTO_NETDEV, observerTable), newChain(unix.NFPROTO_NETDEV, observerTable, "early", "filter", ingress, math.MinInt32, all...), rule}
}

// tracing has a packet traced.
func tracing() attributes {
	return attributes{
		makeExpr("immediate", attr32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1), nested(unix.NFTA_IMMEDIATE_DATA, attr(unix.NFTA_DATA_VALUE, []byte{1}))),
		makeExpr("meta", attr32(unix.NFTA_META_KEY, unix.NFT_META_NFTRACE), attr32(unix.NFTA_META_SREG, unix.NFT_REG_1)),
	}
}

func isGRE() attributes {
	return attributes{
		makeExpr("meta", attr32(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO), attr32(unix.NFTA_META_DREG, unix.NFT_REG_1)),
		equals([]byte{unix.IPPROTO_GRE}),
	}
}

// opens says whether the daemon's rule that accepts the GRE of calls is still to come first in a
// chain. Where it is there already, what others have put before it counts.
func (s surroundings) opens(c chain) bool {
	switch {
	case !s.accepts || slices.ContainsFunc(c.rules, func(r rule) bool { return r.opens }):
		return false
	case !s.native:
		return !c.isNFT() && (c.home == "filter" && c.name == "FORWARD" || c.home == "raw" && c.name == "PREROUTING")
	}
	return c.hook == "forward" && c.kind == "filter" && c.prio > manglePriority && !c.ours()
}

// Priorities of iptables' tables raw and mangle. The daemon opens no chains up to mangle.
const rawPriority, manglePriority = -300, -150

// acceptsGRE is the rule of the daemon's that accepts the GRE of calls in a chain.
func acceptsGRE(c chain) netlink.Message {
	const untracked = 64
	accepts := nested(unix.NFTA_DATA_VERDICT, attr32(unix.NFTA_VERDICT_CODE, nfAccept))
	o := newRule(c.home, c.name, append(isGRE(),
		makeExpr("ct", attr32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE), attr32(unix.NFTA_CT_DREG, unix.NFT_REG_1)),
		equals(binary.NativeEndian.AppendUint32(nil, untracked)),
		makeExpr("immediate", attr32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT), nested(unix.NFTA_IMMEDIATE_DATA, accepts)),
	))
	if own, inet := strings.CutPrefix(c.home, "inet "); inet && strings.HasPrefix(c.table, "nft inet ") {
		o.family, o.attrs[0] = unix.NFPROTO_INET, attrText(unix.NFTA_RULE_TABLE, own)
	}
	m := o.anew(0)
	m.Header.Flags &^= netlink.Append // it comes first
	return m
}

// observe has packets traced.
func (x *scratch) observe(c nfTables, s surroundings) error {
	made := copies(observer(s.queued))
	for _, c := range x.rules {
		if s.opens(c) {
			made = append(made, acceptsGRE(c))
		}
	}
	if _, err := c.create(made); err != nil {
		return fmt.Errorf("trace packets: %w", err)
	}
	if slices.ContainsFunc(x.rules, func(c chain) bool { return c.hook == "ingress" }) {
		_, _ = c.create(copies(observerEarly(s.devs))) // else they are traced from prerouting on
	}
	return nil
}

// listen opens what packets are sent by, and what tells of them; and has in all queues
// that somebody has on the gateway somebody who accepts.
func (x *scratch) listen(s surroundings) error {
	var err error
	if x.trace, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
		return fmt.Errorf("trace packets: %w", err)
	}
	x.ends = append(x.ends, func() { unix.Close(x.trace) })
	const enough = 16 << 20
	wait := unix.NsecToTimeval(quiet.Nanoseconds())
	err = errors.Join(unix.SetsockoptInt(x.trace, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, enough), unix.SetsockoptTimeval(x.trace, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(x.trace, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}), unix.SetsockoptInt(x.trace, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTRACE))
	if err != nil {
		return fmt.Errorf("trace packets: %w", err)
	}
	if x.send, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("send packets: %w", err)
	}
	x.ends = append(x.ends, func() { unix.Close(x.send) })
	for number := range s.bound {
		q, err := nfqueue.Open(nfqueue.Config{Queue: number}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
		if err != nil {
			return err
		}
		x.ends = append(x.ends, func() { q.Close() })
	}
	return nil
}

// enter makes entries of conntrack.
func (x *scratch) enter(make func(*conntrack.Conn) error) error {
	return x.place.Do(func() error {
		c, err := conntrack.Dial()
		if err != nil {
			return err
		}
		return errors.Join(make(c), c.Close())
	})
}

// passed is what became of a packet.
type passed struct {
	events []event
	out    string         // the link that routing chose, "" where it did not
	to     netip.AddrPort // where it went to then
	local  bool           // the gateway took it itself
	gone   bool           // it came through
	parcel parcel         // as it left, if it is GRE

	base   int  // chain that it is in
	jumped rule // what the rules that it came by are about
	done   bool
}

// inFlight bounds how many packets are sent before all of them are seen to end.
const inFlight = 256

// pass sends packets and returns what became of each.
func (x *scratch) pass(all []packet) ([]passed, error) {
	found := make([]passed, 0, len(all))
	for some := range slices.Chunk(all, inFlight) {
		if err := x.ctx.Err(); err != nil {
			return nil, err
		}
		done, err := x.passSome(some)
		if err != nil {
			return nil, err
		}
		found = append(found, done...)
	}
	return found, nil
}

// quiet is how long nothing may be heard of packets that have not come to an end: the
// kernel loses some without a word, as by routing.
const quiet = 30 * time.Millisecond

func (x *scratch) passSome(all []packet) ([]passed, error) {
	found := make([]passed, len(all))
	first := x.serial + 1
	for i, p := range all {
		x.serial++
		found[i].base = -1
		if err := x.sendOne(p); err != nil {
			return nil, err
		}
	}
	at := tracer{}
	message := make([]byte, 1<<14)
	left := len(all)
	for left > 0 {
		n, _, err := unix.Recvfrom(x.trace, message, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("trace packets: %w", err)
		}
		serial, a, known := at.read(message[:max(0, n)])
		if i := int(serial - first); known && i < len(all) && !found[i].done {
			x.follow(&found[i], a)
			if found[i].done {
				left--
			}
		}
	}
	return found, nil
}

// tracer tells packets apart: the kernel shows a packet's header when it comes to a base
// chain, and then but a number that it gives to it.
type tracer map[uint64]uint16

func (t tracer) read(message []byte) (serial uint16, a attributes, known bool) {
	const header = unix.SizeofNlMsghdr + 4 // and struct nfgenmsg
	if len(message) < header || binary.NativeEndian.Uint16(message[4:]) != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE {
		return 0, nil, false
	}
	a = read(message[header:])
	id := a.number(unix.NFTA_TRACE_ID)
	if header := a.get(unix.NFTA_TRACE_NETWORK_HEADER); len(header) >= 20 {
		t[id] = uint16(header[4])<<8 | uint16(header[5])
	}
	serial, known = t[id]
	return serial, a, known
}

// follow adds what one message of the trace tells.
func (x *scratch) follow(p *passed, a attributes) {
	home, name := a.text(unix.NFTA_TRACE_TABLE), a.text(unix.NFTA_TRACE_CHAIN)
	if home == observerTable {
		x.observed(p, name, a)
		return
	}
	at := x.rules.index(home, name)
	if at < 0 {
		return
	}
	c := x.rules[at]
	if c.hook != "" && (p.base != at) {
		p.base, p.jumped = at, rule{}
	}
	e := event{chain: c, base: x.rules[max(p.base, 0)]}
	ruled := verdict(a.nest(unix.NFTA_TRACE_VERDICT))
	switch a.number(unix.NFTA_TRACE_TYPE) {
	case unix.NFT_TRACETYPE_POLICY:
		ruled = action{name: accept}
		if a.number(unix.NFTA_TRACE_POLICY) == nfDrop {
			ruled.name = drop
		}
	case unix.NFT_TRACETYPE_RULE:
		where, known := x.at[handle{home, a.number(unix.NFTA_TRACE_RULE_HANDLE)}]
		if !known || where.chain != at || where.rule >= len(c.rules) {
			return // ours for the trial
		}
		e.rule = c.rules[where.rule]
	default:
		return
	}
	p.meet(e, ruled)
}

// meet adds a rule with all that it does, in the end its verdict.
func (p *passed) meet(e event, ruled action) {
	e.specific = e.specific || p.jumped.specific
	e.ported = e.ported || p.jumped.ported
	for _, a := range e.actions {
		if !slices.Contains([]string{accept, drop, back, jump, goTo}, a.name) {
			e.action = a
			p.events = append(p.events, e)
		}
	}
	e.action = ruled
	if ruled.name == jump || ruled.name == goTo {
		p.jumped.specific, p.jumped.ported = e.specific, e.ported
	}
	if ruled.name != "" {
		p.events = append(p.events, e)
	}
	p.done = p.done || ruled.name == drop
}

// observed takes notice of how far a packet has come.
func (x *scratch) observed(p *passed, chain string, a attributes) {
	ip, transport := a.get(unix.NFTA_TRACE_NETWORK_HEADER), a.get(unix.NFTA_TRACE_TRANSPORT_HEADER)
	if len(ip) < 20 || len(transport) < 8 {
		return // it has been told
	}
	out := uint32(a.number(unix.NFTA_TRACE_OIF))
	switch chain {
	case forwarded:
		p.out = x.link(out)
		p.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(transport[2:]))
	case taken:
		p.local, p.done = true, true
	case gone:
		if _, toMember := x.vrfs[out]; toMember {
			return // it comes again, on its way there
		}
		p.out, p.gone, p.done = x.link(out), true, true
		p.parcel = parcel{netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(transport[6:])}
	}
}

// link returns the name of a link, of a VRF's device that of a member.
func (x *scratch) link(number uint32) string {
	for _, dev := range x.vrfs[number].members {
		if _, there := x.links[dev]; there {
			return dev
		}
	}
	return x.names[number]
}

// sendOne sends a packet as if it came by its link.
func (x *scratch) sendOne(p packet) error {
	in := x.links[p.in]
	if err := unix.SetsockoptInt(x.send, unix.SOL_SOCKET, unix.SO_MARK, int(p.mark)); err != nil {
		return fmt.Errorf("send packets: %w", err)
	}
	frame := append(append(append([]byte{}, in.hardware...), 2, 0, 0, 0, 0, 1, 8, 0), p.bytes(x.serial)...)
	err := unix.Sendto(x.send, frame, 0, &unix.SockaddrLinklayer{Protocol: 8, Ifindex: in.far})
	if err != nil {
		return fmt.Errorf("send packets by %s: %w", p.in, err)
	}
	return nil
}

package check

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// role is a way of being called: by clients inside, or by clients outside that a DNAT
// rule sends to a server inside.
type role struct {
	way
	port, inner uint16
	served      bool
	host        netip.Addr // of a server
}

// journey is what became of a role's packets: of each, the typical one comes first, then
// those of other hosts, with other marks, to other addresses, that rules speak of.
type journey struct {
	role
	public          netip.Addr   // the gateway's address that clients or servers outside know
	hosts           []netip.Addr // inside
	opening         []passed     // the first of the control connection
	began, answer   []passed     // data of it, both ways
	outward, inward []passed     // the call's GRE
}

// travellers send the packets of roles, through the rules of one backend after the other.
type travellers struct {
	scratches []*scratch
	network   network
	words     literals
	queued    bool
	outsides  []string
	variants  int            // how many hosts and marks are tried beside the typical one
	first     map[string]way // by the interface inside: the one on which addresses are tried
	ids       uint16
}

// What is tried is bounded: the more ways there are, the fewer packets that differ.
const (
	maxVariants = 8   // of a kind, for one way
	maxCalls    = 160 // of a kind, for all ways
	maxTargets  = 24
	maxNamed    = 64 // ports
)

// travellers returns those of all ways, which the rules have told.
func (f *firewall) travellers() *travellers {
	f.ways = f.network.ways(f.rules.translating(f.network))
	t := &travellers{network: f.network, words: f.rules.literals(), queued: f.gre.queued, outsides: f.outsides(), first: map[string]way{}}
	t.variants = max(1, min(maxVariants, maxCalls/(len(f.ways)*len(f.ports))))
	t.words.marks = t.words.marks[max(0, len(t.words.marks)-t.variants):]
	for _, w := range f.ways {
		t.network.devs = append(t.network.devs, w.inside, w.outside)
	}
	t.network.devs = unique(t.network.devs)
	for _, dev := range t.network.devs {
		for _, a := range append(t.hosts(dev), t.network.stranger(dev)) {
			t.network.hosts = append(t.network.hosts, host{a, dev})
		}
		if a := t.network.public(dev); !t.network.own(a) {
			t.network.addresses = append(t.network.addresses, host{a, dev})
		}
	}
	return t
}

// surroundings are what packets need beside the rules: stand-ins for the interfaces that
// they are sent by, and for those that chains are bound to.
func (t *travellers) surroundings(layers []layer) surroundings {
	s := surroundings{network: t.network, devs: map[string]int{}}
	all := slices.Clone(t.network.devs)
	for _, l := range layers {
		for _, o := range l.objects {
			all = append(all, o.devices()...)
		}
	}
	for i, dev := range all {
		if found, err := net.InterfaceByName(dev); err == nil {
			s.devs[dev] = found.Index
		} else if i < len(t.network.devs) {
			s.devs[dev] = farIndex/2 + i
		}
	}
	for _, v := range t.network.vrfs {
		delete(s.devs, v.dev)
	}
	return s
}

// host returns an address of a network that is not this gateway's and, if there is one, that
// no rule speaks of.
func (n network) host(of netip.Prefix, words literals) netip.Addr {
	narrow := func(a netip.Addr) bool {
		return slices.ContainsFunc(words.prefixes, func(p netip.Prefix) bool { return p.Bits() > of.Bits() && p.Contains(a) })
	}
	spoken := netip.Addr{}
	a := of.Addr()
	if !of.IsSingleIP() {
		a = a.Next()
	}
	const tries = 300
	for i := 0; i < tries && of.Contains(a); i, a = i+1, a.Next() {
		switch {
		case n.own(a):
		case !narrow(a):
			return a
		case !spoken.IsValid():
			spoken = a
		}
	}
	if !spoken.IsValid() {
		return of.Addr()
	}
	return spoken
}

// hosts returns who calls from behind an interface: a typical host, and those that rules
// speak of.
func (t *travellers) hosts(dev string) []netip.Addr {
	networks := t.network.of(dev)
	if len(networks) == 0 {
		return []netip.Addr{t.network.stranger(dev)}
	}
	all := []netip.Addr{t.network.host(networks[0], t.words)}
	for _, n := range networks[1:] {
		all = append(all, t.network.host(n, t.words))
	}
	for _, p := range t.words.prefixes {
		for _, n := range networks {
			if p.Bits() > n.Bits() && n.Contains(p.Addr()) {
				all = append(all, t.network.host(p, literals{}))
			}
		}
	}
	all = slices.DeleteFunc(all, t.network.own)
	if len(all) == 0 {
		return []netip.Addr{t.network.stranger(dev)}
	}
	return all[:min(len(all), 1+t.variants)]
}

// stranger is an address behind an interface whose networks are not known, or of the
// server outside: one for benchmarks (RFC 2544).
func (n network) stranger(dev string) netip.Addr {
	i := slices.Index(n.devs, dev) + 2
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
}

// public is the gateway's address on an interface, or one that it is given for the trial.
func (n network) public(dev string) netip.Addr {
	if i := slices.IndexFunc(n.addresses, func(h host) bool { return h.dev == dev }); i >= 0 {
		return n.addresses[i].addr
	}
	return netip.AddrFrom4([4]byte{198, 19, 255, byte(slices.Index(n.devs, dev) + 1)})
}

// id is one for each connection: the port that its client chooses, and the Call ID.
func (t *travellers) id() uint16 {
	t.ids++
	return 32768 + t.ids%28000
}

// pass sends packets through all rules.
func (t *travellers) pass(all []packet) ([]passed, error) {
	var found []passed
	for _, x := range t.scratches {
		some, err := x.pass(all)
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = some
			continue
		}
		for i, p := range some {
			if p.to != all[i].to && p.to.IsValid() || !found[i].to.IsValid() {
				found[i].to, found[i].out = p.to, p.out
			}
			found[i].events = append(found[i].events, p.events...)
		}
	}
	return found, nil
}

// travel keeps what becomes of all roles.
func (t *travellers) travel(f *firewall) (err error) {
	if f.clients, err = t.clients(f.ways, f.ports); err != nil {
		return err
	}
	if _, _, found := f.rules.has(dnat, netmap); !found {
		return nil
	}
	var inside []string
	for _, w := range f.ways {
		inside = append(inside, w.inside)
	}
	if f.servers, err = t.served(t.outsides, f.ports); err != nil {
		return err
	}
	if f.neighbours, err = t.served(inside, f.ports); err != nil {
		return err
	}
	found, err := t.knock(sorted(append(t.words.ports, standard), cmp.Compare), unique(append(slices.Clone(t.outsides), f.ways[0].inside)))
	for _, s := range found {
		if s.inner == standard || slices.Contains(f.ports, s.inner) {
			f.forwards = append(f.forwards, s)
		}
	}
	return err
}

// batch is packets, and where it is kept what became of them.
type batch struct {
	sent []packet
	to   *[]passed
}

// passAll sends all packets at once: those that the kernel loses without a word are waited
// for together.
func (t *travellers) passAll(all []batch) error {
	var sent []packet
	for _, b := range all {
		sent = append(sent, b.sent...)
	}
	found, err := t.pass(sent)
	if err != nil {
		return err
	}
	for _, b := range all {
		*b.to, found = found[:len(b.sent)], found[len(b.sent):]
	}
	return nil
}

// clients has those inside call, by each way and port.
func (t *travellers) clients(ways []way, ports []uint16) (map[uint16][]journey, error) {
	var all []*journey
	var openings []batch
	for _, number := range ports {
		for _, w := range ways {
			j := &journey{role: role{way: w, port: number, inner: number}, public: t.network.public(w.outside), hosts: t.hosts(w.inside)}
			all = append(all, j)
			openings = append(openings, batch{t.openings(j), &j.opening})
		}
	}
	if err := t.passAll(openings); err != nil {
		return nil, err
	}
	return t.carry(all)
}

// openings returns a client's first packets.
func (t *travellers) openings(j *journey) []packet {
	server := t.network.stranger(j.outside)
	var all []packet
	add := func(host, to netip.Addr, mark uint32) {
		all = append(all, packet{proto: "tcp", opening: true, in: j.inside, from: netip.AddrPortFrom(host, t.id()), to: netip.AddrPortFrom(to, j.port), mark: mark})
	}
	for _, h := range j.hosts {
		add(h, server, 0)
	}
	for _, m := range t.words.marks {
		add(j.hosts[0], server, m)
	}
	if j.way == t.first[j.inside] || t.first[j.inside] == (way{}) {
		t.first[j.inside] = j.way
		for _, to := range t.targets() {
			add(j.hosts[0], to, 0)
		}
	}
	return all
}

// targets are the addresses that rules which translate destinations may speak of.
func (t *travellers) targets() []netip.Addr {
	var all []netip.Addr
	add := func(a netip.Addr) {
		if a.IsGlobalUnicast() && !slices.Contains(all, a) && len(all) < maxTargets {
			all = append(all, a)
		}
	}
	for _, dev := range t.outsides {
		add(t.network.public(dev))
	}
	for _, p := range t.words.targets {
		add(p.Addr())
	}
	return all
}

// call is what a journey is made of, for one host and mark.
type call struct {
	control calls.Connection
	flows   [2]calls.Flow
	packets [4]packet // data of who called, of who was called, GRE to the outside, and to the inside
}

// call returns that of a host inside with an address outside, the gateway's being public.
func (t *travellers) call(r role, zone uint16, host, outside, public netip.Addr) call {
	id := t.id()
	near, far := netip.AddrPortFrom(host, id), netip.AddrPortFrom(outside, r.port)
	c := call{control: calls.Connection{Zone: zone}}
	from, to := r.inside, r.outside
	if r.served {
		from, to = to, from
		near, far = netip.AddrPortFrom(host, r.inner), netip.AddrPortFrom(outside, id)
		c.control.Original = calls.Tuple{Src: far, Dst: netip.AddrPortFrom(public, r.port)}
		c.control.Reply = calls.Tuple{Src: near, Dst: far}
	} else {
		c.control.Original = calls.Tuple{Src: near, Dst: far}
		c.control.Reply = calls.Tuple{Src: far, Dst: netip.AddrPortFrom(public, id)}
	}
	key := pptp.CallID(id)
	c.flows = [2]calls.Flow{
		{Src: host, Dst: outside, Key: key, NewSrc: public, NewDst: outside, NewKey: key, Zone: zone},
		{Src: outside, Dst: public, Key: key, NewSrc: outside, NewDst: host, NewKey: key, Zone: zone},
	}
	entered := public
	if t.queued {
		entered = host // the daemon has rewritten it
	}
	c.packets = [4]packet{
		{proto: "tcp", in: from, from: c.control.Original.Src, to: c.control.Original.Dst},
		{proto: "tcp", in: to, from: c.control.Reply.Src, to: c.control.Reply.Dst},
		{proto: "gre", in: r.inside, from: near, to: far, key: id},
		{proto: "gre", in: r.outside, from: far, to: netip.AddrPortFrom(entered, 0), key: id},
	}
	return c
}

// carry has connections established and calls' entries made, for each host and mark of
// each journey, and sends their packets. It returns the journeys by port.
func (t *travellers) carry(all []*journey) (map[uint16][]journey, error) {
	var made []call
	var batches []batch
	for _, j := range all {
		zone, _ := zoneOf(j.opening[0])
		var sent [4][]packet
		add := func(host netip.Addr, mark uint32) {
			c := t.call(j.role, zone, host, t.network.stranger(j.outside), j.public)
			made = append(made, c)
			for k, p := range c.packets {
				p.mark = mark
				sent[k] = append(sent[k], p)
			}
		}
		for _, h := range j.hosts {
			add(h, 0)
		}
		for _, m := range t.words.marks {
			add(j.hosts[0], m)
		}
		for k, to := range []*[]passed{&j.began, &j.answer, &j.outward, &j.inward} {
			batches = append(batches, batch{sent[k], to})
		}
	}
	for _, x := range t.scratches {
		if err := x.enter(func(c *conntrack.Conn) error { return t.install(c, made) }); err != nil {
			return nil, fmt.Errorf("make conntrack entries: %w", err)
		}
	}
	if err := t.passAll(batches); err != nil {
		return nil, err
	}
	found := map[uint16][]journey{}
	for _, j := range all {
		found[j.port] = append(found[j.port], *j)
	}
	return found, nil
}

// install makes the entries of calls: of GRE none where the daemon translates.
func (t *travellers) install(c *conntrack.Conn, made []call) (err error) {
	for _, m := range made {
		err = errors.Join(err, c.Revive(m.control))
		if !t.queued {
			err = errors.Join(err, c.Create(m.flows[0]), c.Create(m.flows[1]))
		}
	}
	return err
}

// server is where a port is forwarded to.
type server struct {
	journey
	event event // the rule that does
	to    netip.AddrPort
}

// knock sends the first packets of connections to ports, from behind interfaces, to all
// addresses that rules speak of, and returns where they are sent on to.
func (t *travellers) knock(numbers []uint16, devs []string) ([]server, error) {
	var all []packet
	for _, number := range numbers {
		for _, dev := range devs {
			for _, to := range t.targets() {
				all = append(all, packet{proto: "tcp", opening: true, in: dev, from: netip.AddrPortFrom(t.network.stranger(dev), t.id()), to: netip.AddrPortFrom(to, number)})
			}
		}
	}
	found, err := t.pass(all)
	var servers []server
	for i, p := range found {
		at := slices.IndexFunc(p.events, func(e event) bool { return e.base.hook == "prerouting" && (e.name == dnat || e.name == netmap) })
		if at < 0 || p.local {
			continue
		}
		s := server{event: p.events[at], to: p.to}
		s.role = role{way: way{inside: p.out, outside: all[i].in}, port: all[i].to.Port(), inner: cmp.Or(p.to.Port(), all[i].to.Port()), served: true, host: p.to.Addr()}
		s.opening, s.public, s.hosts = []passed{p}, all[i].to.Addr(), []netip.Addr{s.host}
		if !slices.ContainsFunc(servers, func(o server) bool { return o.role == s.role }) {
			servers = append(servers, s)
		}
	}
	return servers, err
}

// served has clients behind the interfaces call the servers that are published.
func (t *travellers) served(from []string, ports []uint16) (map[uint16][]journey, error) {
	servers, err := t.knock(ports, unique(from))
	if err != nil {
		return nil, err
	}
	var all []*journey
	for _, s := range servers {
		if s.inside != "" && s.inside != s.outside { // else nothing routes there
			all = append(all, &s.journey)
		}
	}
	return t.carry(all)
}

// zoneOf returns where a packet is tracked, and the rule that says so.
func zoneOf(p passed) (uint16, event) {
	for _, e := range p.events {
		if e.base.hook == "prerouting" && e.base.prio < conntrackPriority && (e.name == zone || e.name == notrack) {
			return port(e.arg, 0), e
		}
	}
	return 0, event{}
}

package check

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster/etcd"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// The judges of this file look at what a gateway needs that shares its calls with others.

func judgeEtcd(a asked) Finding {
	var silent []string
	var version, why string
	led, full := false, false
	for _, e := range a.health.Endpoints {
		if e.Err != nil {
			silent, why = append(silent, e.Name), oneLine(e.Err.Error())
			continue
		}
		led, full, version = led || e.Leader, full || e.Full, e.Version
	}
	switch {
	case a.open != nil:
		return warning("see --cluster-cert, --cluster-key and --cluster-ca", "the daemon would not start: %s", oneLine(a.open.Error()))
	case len(silent) == len(a.health.Endpoints):
		return problem(a.tool+" endpoint health", "etcd does not answer: %s", why)
	case !led:
		return problem(a.tool+" endpoint status --write-out=table", "etcd has no leader: a majority of its members must be up")
	case full:
		return problem(a.tool+" alarm disarm", "etcd's space quota is used up, and it refuses all writes: see etcd's --auto-compaction-retention and --quota-backend-bytes")
	case len(silent) > 0:
		return warning("see why "+strings.Join(silent, ", ")+" does not answer", "%d of %d addresses of etcd do not answer: %s", len(silent), len(a.health.Endpoints), why)
	case a.health.Voters == 1:
		return warning("add two members, on other machines", "etcd has only one member: if it is down and a gateway fails, the calls that this gateway has set up meanwhile are lost")
	}
	return ok("%d members of etcd %s; all %d addresses answer", a.health.Voters, version, len(a.health.Endpoints))
}

// latency is how long writes have taken.
type latency struct {
	took []time.Duration
	wait time.Duration // of a packet
	set  func(key, value string) string
}

// slowWrite is from where a write is slow: a call's set-up waits for two.
const slowWrite = 50 * time.Millisecond

func judgeLatency(l latency) Finding {
	slices.Sort(l.took)
	half, most := l.took[len(l.took)/2], l.took[len(l.took)*99/100]
	shown := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
	switch {
	case most >= l.wait:
		longer := min(2*time.Second, (2 * most).Round(10*time.Millisecond))
		return problem(l.set("cluster-wait", longer.String()), "a write to etcd takes up to %s, longer than a packet waits (%v): calls are set up before other gateways know of them", shown(most), l.wait)
	case most >= slowWrite:
		return warning("give etcd a disk of its own, and place its members near the gateways", "a write to etcd takes up to %s: setting up a call waits for two writes", shown(most))
	}
	return ok("%d writes: half of them within %s, all within %s", len(l.took), shown(half), shown(most))
}

// rightsThere are the gateway's in etcd.
type rightsThere struct {
	etcd.Rights
	prefix   string
	insecure bool
	tool     string
}

func judgeEtcdRights(r rightsThere) Finding {
	grant := shell("etcdctl", "role", "grant-permission", "pptpalg", "readwrite", "--prefix", r.prefix)
	switch {
	case r.Read != nil:
		return problem(grant, "etcd does not let this gateway read below %s: %s", r.prefix, oneLine(r.Read.Error()))
	case r.Write != nil:
		return problem(grant, "etcd does not let this gateway write below %s: %s", r.prefix, oneLine(r.Write.Error()))
	case r.insecure:
		return warning("use TLS and a role: docs/SECURITY.md", "etcd is used without TLS: anyone who reaches it can redirect calls")
	case r.Elsewhere:
		return ok("this gateway may read and write below %s, and elsewhere too, as may anyone with a certificate of the same CA", r.prefix)
	}
	return ok("this gateway may read and write below %s, and nowhere else", r.prefix)
}

// gateways are those of the cluster.
type gateways struct {
	me      state.Member
	up      []state.Member
	running bool // the daemon here
	set     func(key, value string) string
}

func judgeGateways(g gateways) Finding {
	var names []string
	var all []Finding
	for _, m := range g.up {
		switch {
		case m.Name != g.me.Name:
			names = append(names, m.Name)
			all = append(all, g.unlike(m))
		case !g.running:
			all = append(all, problem(g.set("cluster-name", m.Name+"-2"), "another running gateway has the name %s: each gateway needs its own name", m.Name))
		}
	}
	if len(names) == 0 {
		all = append(all, warning("start pptpalg on another gateway, with the same --cluster", "no other gateway is up: none would take over the calls of this one"))
	}
	slices.Sort(names)
	return worst(ok("%s: the same --ports, --rest and --random-ids as here", strings.Join(names, ", ")), all...)
}

// unlike finds what all gateways must have alike, and this one has not.
func (g gateways) unlike(m state.Member) Finding {
	for _, s := range []struct{ key, mine, its string }{
		{"ports", strings.Join(strings.Fields(g.me.Ports), ","), strings.Join(strings.Fields(m.Ports), ",")},
		{"rest", g.me.Rest.String(), m.Rest.String()},
		{"random-ids", strconv.FormatBool(g.me.RandomIDs), strconv.FormatBool(m.RandomIDs)},
	} {
		if s.mine != s.its {
			return problem(g.set(s.key, s.its), "--%s is %s here, and %s on %s: it must be the same on all gateways", s.key, s.mine, s.its, m.Name)
		}
	}
	return Finding{}
}

// clocks are those of the other gateways.
type clocks struct {
	up    []string
	ahead map[string]time.Duration // of the clock here, by gateway that was heard
}

func (c clocks) heardAll() bool {
	return !slices.ContainsFunc(c.up, func(name string) bool { _, heard := c.ahead[name]; return !heard })
}

// wrongClock is a difference from where rest times, and since when a call is up, come out wrong.
const wrongClock = time.Second

func judgeClocks(c clocks) Finding {
	var all []Finding
	most := time.Duration(0)
	for _, name := range c.up {
		ahead, heard := c.ahead[name]
		most = max(most, ahead.Abs())
		switch {
		case !heard:
			all = append(all, warning("see \"pptpalg cluster status\" there", "%s is up, but does not report its time: it has lost etcd, or runs another version", name))
		case ahead.Abs() >= wrongClock:
			all = append(all, problem("timedatectl set-ntp true", "the clock of %s differs from this gateway's by %v: gateways need the same time", name, ahead.Abs().Round(100*time.Millisecond)))
		}
	}
	if len(c.up) == 0 {
		return ok("no other gateway is up")
	}
	return worst(ok("the clocks of %s are within %v", strings.Join(c.up, ", "), most.Round(time.Millisecond)), all...)
}

// moving is how clients' control connections are translated, and which addresses move.
type moving struct {
	firewall
	addresses []netip.Addr
	share     calls.Share // of addresses that several gateways have; zero for all
}

// judgeMoving wants calls to be translated to an address that moves. MASQUERADE takes the first
// address of the interface, and the kernel deletes its entries when that address goes. Where several
// gateways have the address, each must give ports of its own.
func judgeMoving(m moving) Finding {
	var all []Finding
	for _, number := range m.ports {
		for _, j := range m.clients[number] {
			for _, p := range j.opening {
				for _, e := range p.events {
					switch {
					case e.name == masquerade:
						all = append(all, m.masqueraded(e, j.outside))
					case e.name == snat && m.share.Of > 1:
						all = append(all, m.portsOf(e, j.outside))
					}
				}
			}
		}
	}
	return worst(ok("no control connection is masqueraded"), all...)
}

func (m moving) masqueraded(e event, outside string) Finding {
	i := slices.IndexFunc(m.addresses, func(a netip.Addr) bool {
		return slices.ContainsFunc(m.network.of(outside), func(p netip.Prefix) bool { return p.Contains(a) })
	})
	if i < 0 {
		return warning("use SNAT --to-source ADDRESS instead, with the address that moves",
			"control connections are masqueraded by %s: the kernel forgets them when the address moves, and all calls end", e.where())
	}
	a := m.addresses[i].String()
	snat := statement{"-j SNAT --to-source " + a, "snat to " + a}.from("", outside)
	return problem(e.base.at(snat), "control connections are masqueraded by %s: the kernel forgets them when %v moves, and all calls end", e.where(), a)
}

// portsOf wants a rule to give no ports but those of this gateway's share.
func (m moving) portsOf(e event, outside string) Finding {
	size := 1 << 16 / int(m.share.Of)
	least, most := max(1024, int(m.share.Mine)*size), (int(m.share.Mine)+1)*size-1
	to, from, till := e.given()
	if from >= least && till <= most {
		return Finding{}
	}
	if to == "" {
		to = "ADDRESS"
	}
	to = fmt.Sprintf("%s:%d-%d", to, least, most)
	return problem(e.base.at(statement{"-p tcp -j SNAT --to-source " + to, "meta l4proto tcp snat to " + to}.from("", outside)),
		"%s translates control connections to ports that another gateway with the same public address may also use: with this --cluster-share the ports must be %d to %d", e.where(), least, most)
}

// given returns to which address a rule translates sources, and to which ports, as far as it says so.
func (e event) given() (to string, from, till int) {
	if e.words == nil {
		return e.arg, int(e.ports[0]), int(max(e.ports[0], e.ports[1]))
	}
	i := slices.Index(e.words, "--to-source")
	if i < 0 || i+1 == len(e.words) {
		return "", 0, 0
	}
	to, ports, _ := strings.Cut(e.words[i+1], ":")
	first, last, ranged := strings.Cut(ports, "-")
	from, _ = strconv.Atoi(first) // 0 for none
	if till = from; ranged {
		till, _ = strconv.Atoi(last)
	}
	return to, from, till
}

// clusterTable is the room for all calls of the cluster.
type clusterTable struct {
	max   int // entries, 0 for no limit
	calls int
}

// perCall is how many entries a call has in each gateway.
const perCall = 3

func judgeClusterTable(t clusterTable) Finding {
	need := perCall * t.calls
	switch {
	case t.max == 0:
		return ok("all gateways together have %d calls; conntrack has no limit", t.calls)
	case need*100 >= t.max*filling:
		return problem(fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 4*need),
			"the %d calls of all gateways need %d conntrack entries here, more than the limit of %d allows: each gateway has the entries of all", t.calls, need, t.max)
	}
	return ok("the %d calls of all gateways need %d of %d conntrack entries", t.calls, need, t.max)
}

// conntrackd is its configuration, if there is one.
type conntrackd struct {
	file   string
	blocks []block
}

func judgeConntrackd(c conntrackd) Finding {
	switch {
	case c.file == "":
		return ok("not installed, and not needed")
	case c.syncs("GRE"):
		return warning("in "+c.file+", General, Filter From Userspace: Protocol Accept { TCP UDP ICMP }",
			"conntrackd replicates GRE entries, without their Call IDs: clients would get each other's packets (%s)", c.file)
	}
	return ok("it does not replicate GRE entries (%s)", c.file)
}

// syncs reports whether a protocol is copied.
func (c conntrackd) syncs(protocol string) bool {
	for _, filter := range within(c.blocks, "Protocol") {
		named := slices.ContainsFunc(filter.inner, func(b block) bool {
			return slices.ContainsFunc(b.words, func(w string) bool { return strings.EqualFold(w, protocol) })
		})
		switch {
		case filter.is("Protocol", "Accept"):
			return named
		case filter.is("Protocol", "Ignore") && named:
			return false
		}
	}
	return true
}

// keepalived is its configuration, if there is one.
type keepalived struct {
	file   string
	blocks []block
}

// addresses are those that it moves.
func (k keepalived) addresses() []netip.Addr {
	var all []netip.Addr
	for _, b := range within(k.blocks, "virtual_ipaddress") {
		for _, a := range b.inner {
			text, _, _ := strings.Cut(a.words[0], "/")
			if address, err := netip.ParseAddr(text); err == nil {
				all = append(all, address)
			}
		}
	}
	return all
}

// tracking are the scripts that ask the daemon.
func (k keepalived) tracking() []string {
	var names []string
	for _, b := range within(k.blocks, "vrrp_script") {
		script := strings.Join(slices.Concat(wordsWithin(b.inner, "script")...), " ")
		if len(b.words) > 1 && (strings.Contains(script, "pptpalg") || strings.Contains(script, "/-/ready")) {
			names = append(names, b.words[1])
		}
	}
	return names
}

func wordsWithin(all []block, word string) [][]string {
	var found [][]string
	for _, b := range within(all, word) {
		found = append(found, b.words)
	}
	return found
}

// tracked reports whether an instance, or its group, is up only while the daemon is ready.
func (k keepalived) tracked(instance block) bool {
	scripts := k.tracking()
	tracks := func(b block) bool {
		return slices.ContainsFunc(within(b.inner, "track_script"), func(t block) bool {
			return slices.ContainsFunc(t.inner, func(s block) bool { return slices.Contains(scripts, s.words[0]) })
		})
	}
	group, grouped := k.group(instance)
	return tracks(instance) || grouped && tracks(group)
}

// group returns the sync group of an instance.
func (k keepalived) group(instance block) (block, bool) {
	for _, g := range within(k.blocks, "vrrp_sync_group") {
		for _, members := range within(g.inner, "group") {
			if slices.ContainsFunc(members.inner, func(m block) bool { return m.words[0] == instance.name() }) {
				return g, true
			}
		}
	}
	return block{}, false
}

func (b block) name() string { return strings.Join(b.words[1:], " ") }

func judgeKeepalived(k keepalived) Finding {
	instances := within(k.blocks, "vrrp_instance")
	if k.file == "" || len(instances) == 0 {
		return ok("not installed: whatever moves the addresses must check \"pptpalg cluster status\" or /-/ready first")
	}
	const see = "see docs/INTEGRATION.md, two gateways and a witness"
	var all []Finding
	for _, i := range instances {
		_, grouped := k.group(i)
		advert := cmp.Or(value(i.inner, "advert_int"), "1")
		seconds, err := strconv.ParseFloat(advert, 64)
		fast := value(k.blocks, "vrrp_version") == "3" || value(i.inner, "version") == "3"
		switch {
		case !k.tracked(i):
			all = append(all, warning(see, "keepalived does not check whether the daemon is ready: if it dies, or is out of date, %s stays on this gateway (%s)", i.name(), k.file))
		case len(instances) > 1 && !grouped:
			all = append(all, warning(see, "%s is in no vrrp_sync_group: it may move without the others (%s)", i.name(), k.file))
		case err == nil && (seconds >= 1 || !fast):
			all = append(all, warning(see, "%s moves about three seconds after a gateway dies: use vrrp_version 3 and advert_int 0.1 (%s)", i.name(), k.file))
		}
	}
	return worst(ok("it checks whether the daemon is ready, and moves %d addresses (%s)", len(k.addresses()), k.file), all...)
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

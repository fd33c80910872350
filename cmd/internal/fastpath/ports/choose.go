package ports

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Most is how many ports there can be.
const Most = 16

// Port is an interface, and how the fast path uses it.
type Port struct {
	Index int // 0 if there is no such interface
	Name  string
	MAC   net.HardwareAddr // nil: packets have no link header

	// XDP and TC say where packets are taken as they arrive. Both are set where some flows
	// leave by a port with XDP and others by one without. If neither is set, the fast path
	// does not use the interface.
	XDP, TC bool

	// Down says that it is not used because it is down. What is attached stays until it is up.
	Down bool

	// Why says in plain words why it is XDP, only tc, or nothing.
	Why string
}

// Used reports whether the fast path uses the interface.
func (p *Port) Used() bool { return p.XDP || p.TC }

// decide returns a port for each interface that is named, or for all if none is.
func (f *facts) decide(mode Mode, only []string) []Port {
	var all []Port
	for i := range f.links {
		if l := &f.links[i]; len(only) == 0 || slices.Contains(only, l.name) {
			all = append(all, f.port(mode, l))
		}
	}
	for _, name := range only {
		if !slices.ContainsFunc(all, func(p Port) bool { return p.Name == name }) {
			all = append(all, Port{Name: name, Why: "there is no such interface"})
		}
	}
	limit(all)
	if mode == Auto {
		pair(all)
	}
	return all
}

// port decides about an interface as if it were alone.
func (f *facts) port(mode Mode, l *link) Port {
	p := Port{Index: l.index, Name: l.name, MAC: l.ethernet()}
	if p.Why = f.unfit(l); p.Why != "" {
		p.Down = !l.up()
		return p
	}
	if mode == TC {
		p.TC, p.Why = true, "tc was requested"
		return p
	}
	obstacle, note := f.obstacle(mode, l)
	switch {
	case obstacle == "":
		p.XDP, p.Why = true, note
	case mode == XDP:
		p.Why = "no XDP: " + obstacle
	default:
		p.TC, p.Why = true, "no XDP: "+obstacle
	}
	return p
}

// layer3 are the kinds of interfaces that the fast path takes: a packet that is given to
// them needs nothing but its link header. A tunnel may also need the route that led to it.
var layer3 = map[string]bool{
	"": true, "veth": true, "tun": true, "vlan": true, "bridge": true, "bond": true, "team": true, "macvlan": true, "dsa": true, "ppp": true, "dummy": true,
}

// unfit returns why the fast path cannot use an interface at all, "" if it can.
func (f *facts) unfit(l *link) string {
	switch {
	case l.loopback():
		return "it is the loopback interface"
	case !l.up():
		return "it is down"
	case l.slave != "" || l.master != 0:
		return f.unfitSlave(l)
	case l.kind == "vrf":
		return "it is a VRF, for which the kernel does not report the incoming interface of a packet"
	case !layer3[l.kind]:
		return fmt.Sprintf("interfaces of kind %s are left to the kernel", l.kind)
	case l.ethernet() == nil && !headless(l.typ):
		return fmt.Sprintf("its link header is not Ethernet's (type %d)", l.typ)
	}
	if above := f.above(l); len(above) > 0 && !f.addressed[l.index] {
		return "its IPv4 addresses are on " + names(above)
	}
	return ""
}

func (f *facts) unfitSlave(l *link) string {
	master := "another interface"
	if m, ok := f.link(l.master); ok {
		master = strings.TrimSpace(m.kind + " " + m.name)
		if m.kind == "vrf" {
			return fmt.Sprintf("it is in %s, for which the kernel does not report the incoming interface of a packet", master)
		}
	}
	return fmt.Sprintf("it is a port of %s, which handles its packets", master)
}

// headless reports whether packets of a type of interface begin with the IP header.
func headless(typ uint16) bool {
	return typ == unix.ARPHRD_PPP || typ == unix.ARPHRD_NONE || typ == unix.ARPHRD_RAWIP
}

// obstacle returns what prevents XDP on an interface. If that is "", the note says why XDP
// works.
func (f *facts) obstacle(mode Mode, l *link) (obstacle, note string) {
	if l.ethernet() == nil {
		return "its packets have no link header", ""
	}
	if l.kind != "" && l.kind != "veth" && l.kind != "tun" {
		return fmt.Sprintf("frames do not arrive on a %s itself", l.kind), ""
	}
	obstacle, note = f.unsent(mode, l)
	for _, next := range []func(*link) string{f.stacked, f.taken, f.queued, f.filtered} {
		if obstacle == "" {
			obstacle = next(l)
		}
	}
	return obstacle, note
}

// unsent returns why the driver would not send what XDP redirects to the interface. Drivers
// of cards begin to send with the first program, so that where none is attached nothing is
// known: Sends asks again.
func (f *facts) unsent(mode Mode, l *link) (obstacle, note string) {
	have, ok := f.features[l.index]
	switch {
	case f.features == nil && mode == XDP:
		return "", "XDP was requested; kernels before 6.3 cannot tell whether the driver sends"
	case f.features == nil:
		return "kernels before 6.3 cannot tell whether the driver sends what XDP redirects", ""
	case !ok || have&(xdpBasic|xdpRedirect) != xdpBasic|xdpRedirect:
		return "the driver cannot do it", ""
	case have&xdpSends != 0:
		return "", "the driver takes and sends frames in XDP"
	case l.kind == "veth":
		return "the peer has neither GRO nor a program, so that redirected frames would be lost", ""
	case l.xdp[0] != 0:
		return "the driver does not send what XDP redirects", ""
	}
	return "", "the driver supports XDP; whether it can send is known once the program is attached"
}

// stacked returns why XDP would look at frames that are another interface's. Without their
// tags, frames of a VLAN look like the card's own.
func (f *facts) stacked(l *link) string {
	for _, u := range f.above(l) {
		if u.kind != "vlan" {
			return fmt.Sprintf("%s %s takes frames from it", u.kind, u.name)
		}
		if f.untags[l.index] {
			return fmt.Sprintf("VLAN %s is on it, and the card strips tags (rx-vlan-offload)", u.name)
		}
	}
	return ""
}

// taken returns why the place for an XDP program is not free.
func (f *facts) taken(l *link) string {
	for i, id := range l.xdp {
		if id != 0 && (i > 0 || !f.ours(id)) {
			return fmt.Sprintf("another program (%d) is attached to XDP", id)
		}
	}
	return ""
}

// skippable are the qdiscs that shape nothing, and that XDP may skip.
var skippable = map[string]bool{"noqueue": true, "noop": true, "mq": true, "pfifo_fast": true, "fq_codel": true, "fq": true}

func (f *facts) queued(l *link) string {
	for _, kind := range f.qdiscs[l.index] {
		if !skippable[kind] {
			return fmt.Sprintf("it would skip the qdisc %s", kind)
		}
	}
	return ""
}

func (f *facts) filtered(l *link) string {
	switch n := f.filters[l.index]; {
	case n.in > 0:
		return "it would skip filters or programs on ingress (tc)"
	case n.out > 0:
		return "it would skip filters or programs on egress (tc)"
	}
	return ""
}

// limit takes ports beyond those that there can be out.
func limit(all []Port) {
	n := 0
	for i := range all {
		p := &all[i]
		if !p.Used() {
			continue
		}
		if n++; n > Most {
			p.XDP, p.TC, p.Why = false, false, fmt.Sprintf("the fast path already has %d interfaces: select them with --fastpath-interfaces", Most)
		}
	}
}

// pair settles what depends on the other ports: XDP needs a port to send to, and a port with
// XDP takes packets by tc too if they may have to leave by a port without.
func pair(all []Port) {
	xdp, used := 0, 0
	for i := range all {
		if all[i].XDP {
			xdp++
		}
		if all[i].Used() {
			used++
		}
	}
	for i := range all {
		switch p := &all[i]; {
		case p.XDP && xdp == 1 && used > 1:
			p.XDP, p.TC, p.Why = false, true, "no XDP: no other interface can do it"
		case p.XDP && xdp < used:
			p.TC = true
		}
	}
}

func names(links []*link) string {
	const some = 3
	var all []string
	for i, l := range links {
		if i == some {
			all = append(all, fmt.Sprintf("%d more", len(links)-some))
			break
		}
		all = append(all, l.name)
	}
	return strings.Join(all, ", ")
}

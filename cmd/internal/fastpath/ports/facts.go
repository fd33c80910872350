package ports

// facts are what the kernel says about all interfaces of a network namespace. The maps are
// by an interface's index.
type facts struct {
	links     []link // by index
	addressed map[int]bool
	qdiscs    map[int][]string // kinds on the way out

	features map[int]uint64 // of XDP; nil if the kernel has no family netdev
	untags   map[int]bool   // the card takes VLAN tags off; asked where a VLAN stands on it

	// Programs and filters of others that are attached to tcx or clsact, asked of those that
	// may be ports.
	filters map[int]filters

	// ours reports whether a program that is attached is the fast path's.
	ours func(program uint32) bool
}

// filters count what others have attached to an interface.
type filters struct{ in, out int }

// Bits of XDP's features (enum netdev_xdp_act of linux/netdev.h).
const (
	xdpBasic    = 1 << 0
	xdpRedirect = 1 << 1
	xdpSends    = 1 << 2 // NETDEV_XDP_ACT_NDO_XMIT
)

func (f *facts) link(index int) (*link, bool) {
	for i := range f.links {
		if f.links[i].index == index {
			return &f.links[i], true
		}
	}
	return nil, false
}

// above returns the interfaces that stand on one and take its frames: the kernel hands them
// up before it looks at addresses. A bridge or bond is no such interface but its master.
func (f *facts) above(l *link) []*link {
	var all []*link
	for i := range f.links {
		if u := &f.links[i]; u.lower == l.index && stands[u.kind] {
			all = append(all, u)
		}
	}
	return all
}

// stands are the kinds of interfaces that take frames from the one they name as their link.
// Of the others, veth names its peer, and a tunnel the way that it takes.
var stands = map[string]bool{
	"": true, "vlan": true, "macvlan": true, "macvtap": true, "ipvlan": true, "ipvtap": true, "macsec": true, "dsa": true, "rmnet": true,
}

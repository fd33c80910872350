package ports

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Held says which of the fast path's programs an interface has.
type Held struct{ XDP, In, Out bool } // In and Out: in tc

// AskHeld asks which of the fast path's programs interfaces have, in the network namespace of
// the calling thread. The answer is by index, and has nothing of interfaces that are gone.
//
// It needs CAP_NET_ADMIN. As with Choose, only root can ask whose a program is.
func AskHeld(indexes []int) (map[int]Held, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := askLinks(c)
	if err != nil {
		return nil, err
	}
	f, all := facts{links: links}, make(map[int]Held)
	for _, index := range indexes {
		l, there := f.link(index)
		if !there {
			continue
		}
		h, err := askHeld(c, l)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("%s: ask for programs: %w", l.name, err)
		}
		all[index] = h
	}
	return all, nil
}

func askHeld(c *netlink.Conn, l *link) (Held, error) {
	h := Held{XDP: l.xdp[0] != 0 && ours(l.xdp[0])}
	for _, way := range []struct {
		held *bool
		at   hook
	}{{&h.In, ingress}, {&h.Out, egress}} {
		n, err := askHook(c, l.index, way.at, ours)
		if err != nil {
			return Held{}, err
		}
		*way.held = n.ours > 0
	}
	return h, nil
}

// hook is a place for programs in tc: that of tcx, and that of clsact.
type hook struct {
	attach ebpf.AttachType
	parent uint32
}

var (
	ingress = hook{ebpf.AttachTCXIngress, clsactIngress}
	egress  = hook{ebpf.AttachTCXEgress, clsactEgress}
)

// owned counts programs and filters by whose they are.
type owned struct{ ours, others int }

func (o *owned) add(ours bool) {
	if ours {
		o.ours++
	} else {
		o.others++
	}
}

// askHook counts what is attached to an interface's tcx and clsact.
func askHook(c *netlink.Conn, index int, at hook, ours func(program uint32) bool) (n owned, err error) {
	if err := askTCX(index, at.attach, ours, &n); err != nil {
		return owned{}, fmt.Errorf("tcx: %w", err)
	}
	if err := askClassifiers(c, index, at.parent, &n); err != nil {
		return owned{}, fmt.Errorf("clsact: %w", err)
	}
	return n, nil
}

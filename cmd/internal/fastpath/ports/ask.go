package ports

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ProgramPrefix begins the names of the fast path's programs and filters, by which Choose
// tells them from others'.
const ProgramPrefix = "pptpalg"

// Choose decides about the interfaces named, or about all if none is named, in the network
// namespace of the calling thread. It returns those that the fast path does not use, too,
// with the reason. With mode Off there are none.
//
// It needs CAP_NET_ADMIN. Only root can ask whose a program is: for others, one in the place
// for XDP is the fast path's own, because the loader had found the place free.
func Choose(mode Mode, only []string) ([]Port, error) {
	if mode == Off {
		return nil, nil
	}
	f, err := ask()
	if err != nil {
		return nil, fmt.Errorf("choose interfaces for the fast path: %w", err)
	}
	return f.decide(mode, only), nil
}

// Sends reports whether an interface sends what XDP redirects to it. For most cards that
// shows only when a program is attached. Where the kernel cannot tell, it is true.
func Sends(index int) (bool, error) {
	features, err := askFeatures()
	if err != nil {
		return false, fmt.Errorf("ask for XDP's features: %w", err)
	}
	return features == nil || features[index]&xdpSends != 0, nil
}

// ask asks the kernel for all facts.
func ask() (*facts, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f := &facts{untags: make(map[int]bool), filters: make(map[int]filters), ours: ours}
	if f.links, err = askLinks(c); err != nil {
		return nil, err
	}
	if f.addressed, err = askAddresses(c); err != nil {
		return nil, err
	}
	if f.qdiscs, err = askQdiscs(c); err != nil {
		return nil, err
	}
	if f.features, err = askFeatures(); err != nil {
		return nil, fmt.Errorf("ask for XDP's features: %w", err)
	}
	for i := range f.links {
		if err := f.askMore(c, &f.links[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", f.links[i].name, err)
		}
	}
	return f, nil
}

// askMore asks for what is asked of one interface at a time, if it matters. An interface may
// go meanwhile.
func (f *facts) askMore(c *netlink.Conn, l *link) error {
	if f.unfit(l) != "" || l.ethernet() == nil {
		return nil
	}
	n, err := askFilters(c, l.index, f.ours)
	if err != nil && !gone(err) {
		return fmt.Errorf("ask for filters: %w", err)
	}
	f.filters[l.index] = n
	if !slices.ContainsFunc(f.above(l), func(u *link) bool { return u.kind == "vlan" }) {
		return nil
	}
	if f.untags[l.index], err = askUntags(l.index); err != nil && !gone(err) {
		return fmt.Errorf("ask for rx-vlan-offload: %w", err)
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

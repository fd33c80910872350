package ports

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Change is what may have changed of what the kernel decides by.
type Change struct {
	// Links is a link's state, address, MTU, master or qdisc, what XDP can do on it, or the
	// forwarding of packets: Choose may now say something else. Came and Went name the
	// interfaces that are new and gone, as far as that was seen. A renamed one did both.
	Links      bool
	Came, Went []string

	Routes    bool // or nexthops
	Rules     bool // of routing (ip rule), or IPsec policies
	Addresses bool // Choose may now say something else
	Filters   bool // of tc, on the way in or out: Choose may now say something else
	Ruleset   bool // of nftables; that of iptables-nft, too
}

// everything is what may have changed where nobody told.
var everything = Change{Links: true, Routes: true, Rules: true, Addresses: true, Filters: true, Ruleset: true}

// some reports whether there is any change.
func (c *Change) some() bool {
	return c.Links || c.Routes || c.Rules || c.Addresses || c.Filters || c.Ruleset
}

func (c *Change) add(d Change) {
	c.Links, c.Routes, c.Rules = c.Links || d.Links, c.Routes || d.Routes, c.Rules || d.Rules
	c.Addresses, c.Filters, c.Ruleset = c.Addresses || d.Addresses, c.Filters || d.Filters, c.Ruleset || d.Ruleset
	c.Came, c.Went = append(c.Came, d.Came...), append(c.Went, d.Went...)
}

// Groups of netlink (linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/xfrm.h). Nothing
// of IPv6 and no neighbours.
var (
	linkGroups    = []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF}
	routeGroups   = []uint32{unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_NEXTHOP}
	rulesetGroups = []uint32{7} // NFNLGRP_NFTABLES
	policyGroups  = []uint32{4} // XFRMNLGRP_POLICY
)

// source is a socket that changes are read from.
type source struct {
	conn *netlink.Conn
	read func(netlink.Message) Change
	lost func() (Change, error) // what may have changed if the socket's buffer was too small
}

// Watch calls changed when what the kernel decides by may have changed in the network
// namespace of the calling thread, until ctx is done. The first call says that everything
// has: by then Watch listens. Calls are one at a time, and at once; Pacer is for those who
// cannot bear as many.
//
// iptables-legacy, ipset and most sysctls tell nobody.
func Watch(ctx context.Context, changed func(Change)) error {
	w := watcher{changed: changed, known: known{links: make(map[int]link)}}
	defer w.close()
	if err := w.listen(); err != nil {
		return fmt.Errorf("listen to changes of the network: %w", err)
	}
	w.tell(everything)
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range w.sources {
		group.Go(func() error { return s.follow(ctx, w.tell) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("listen to changes of the network: %w", err)
	}
	return nil
}

type watcher struct {
	conns   []*netlink.Conn
	sources []source
	known   known

	mu      sync.Mutex // for changed
	changed func(Change)
}

func (w *watcher) close() {
	for _, c := range w.conns {
		c.Close()
	}
}

func (w *watcher) tell(c Change) {
	if c.some() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed(c)
	}
}

// listen opens all sockets. Routes have one of their own: those of a router that speaks BGP
// never end, and what gets lost among them is routes only.
func (w *watcher) listen() error {
	if err := w.open(unix.NETLINK_ROUTE, routeGroups, readRoute, only(Change{Routes: true})); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	if err := w.open(unix.NETLINK_NETFILTER, rulesetGroups, new(transaction).read, only(Change{Ruleset: true})); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := w.open(unix.NETLINK_ROUTE, linkGroups, w.known.read, w.known.lost); err != nil {
		return fmt.Errorf("links: %w", err)
	}
	if err := w.know(); err != nil {
		return err
	}
	err := w.open(unix.NETLINK_XFRM, policyGroups, readPolicy, only(Change{Rules: true}))
	if err != nil && !errors.Is(err, unix.EPROTONOSUPPORT) { // no IPsec
		return fmt.Errorf("IPsec policies: %w", err)
	}
	if err := w.listenToFeatures(); err != nil {
		return fmt.Errorf("XDP's features: %w", err)
	}
	return nil
}

// only is for a socket on which nothing else than c can get lost.
func only(c Change) func() (Change, error) {
	return func() (Change, error) { return c, nil }
}

func (w *watcher) open(protocol int, groups []uint32, read func(netlink.Message) Change, lost func() (Change, error)) error {
	c, err := netlink.Dial(protocol, nil)
	if err != nil {
		return err
	}
	w.conns = append(w.conns, c)
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return fmt.Errorf("join group %d: %w", g, err)
		}
	}
	w.sources = append(w.sources, source{c, read, lost})
	return nil
}

// know reads the links that there are.
func (w *watcher) know() (err error) {
	if w.known.asks, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return err
	}
	w.conns = append(w.conns, w.known.asks)
	_, err = w.known.lost()
	return err
}

// listenToFeatures listens to what XDP can do, which veth changes when its peer gets or loses
// GRO.
func (w *watcher) listenToFeatures() error {
	c, f, err := dialGeneric("netdev")
	if errors.Is(err, errNoFamily) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Close()
	return w.open(unix.NETLINK_GENERIC, []uint32{f.groups[netdevGroup]}, readFeatures, only(Change{Links: true}))
}

// follow reads until ctx is done.
func (s source) follow(ctx context.Context, tell func(Change)) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }) // ends Receive
	defer stop()
	for {
		c, err := s.next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		tell(c)
	}
}

// next returns what the next messages say.
func (s source) next() (Change, error) {
	msgs, err := s.conn.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return s.lost()
	}
	var all Change
	for _, m := range msgs {
		all.add(s.read(m))
	}
	return all, err
}

func readRoute(netlink.Message) Change { return Change{Routes: true} }

func readPolicy(netlink.Message) Change { return Change{Rules: true} }

func readFeatures(netlink.Message) Change { return Change{Links: true} }

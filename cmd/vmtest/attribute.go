package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attached is what a queued packet said of its connection's conntrack entry (NFQA_CT).
type attached struct {
	client netip.Addr     // the original tuple's source
	public netip.AddrPort // the reply tuple's destination: the translated source, once there is one
	label  []byte
}

// label is the label that the verdicts of attribute set, on an entry that has none of the
// daemon's: number 3.
var label = append([]byte{1 << 3}, make([]byte, 15)...)

// attribute looks at the conntrack entry that the kernel attaches to queued packets, at
// the daemon's hook: docs/ARCHITECTURE.md says what follows from it. Of two connections
// from the same port, the second has the port translated as well.
func (n *network) attribute() error {
	seen := make(chan attached, 100)
	stop, err := n.queueAttached(seen)
	if err != nil {
		return fmt.Errorf("queue with conntrack: %w", err)
	}
	defer stop()
	at := netip.AddrPortFrom(n.Outside[1].Addr, attributePort)
	l, err := n.Outside[1].Listen(at)
	if err != nil {
		return err
	}
	defer l.Close()
	for _, h := range n.Inside {
		from := netip.AddrPortFrom(h.Addr, attributePort)
		ours, err := h.Dial(context.Background(), from, at)
		if err != nil {
			return err
		}
		defer ours.Close()
		theirs, err := l.Accept()
		if err != nil {
			return err
		}
		defer theirs.Close()
		public := netip.MustParseAddrPort(theirs.RemoteAddr().String())
		if err := wantAttached(seen, from, public); err != nil {
			return err
		}
	}
	return nil
}

// wantAttached wants SYN to show a connection before its translation, and SYN+ACK and ACK
// the translated one, with the label that verdicts have set. All of them have been seen;
// a slow machine sends some again.
func wantAttached(seen <-chan attached, from, public netip.AddrPort) error {
	var packets []attached
	for range len(seen) {
		if p := <-seen; p.client == from.Addr() {
			packets = append(packets, p)
		}
	}
	if len(packets) < 3 || packets[0].public != from {
		return fmt.Errorf("look at conntrack entries: want three or more, and %v before its translation: %v", from, packets)
	}
	for _, p := range packets[len(packets)-2:] {
		if p.public != public || !bytes.Equal(p.label, label) {
			return fmt.Errorf("look at conntrack entries: want %v translated to %v, with a label: %v", from, public, packets)
		}
	}
	return nil
}

// attributePort is a TCP port, and the number of a queue.
const attributePort = 4242

// queueAttached queues a port's connections at the daemon's hook, tells what comes with
// their packets, and accepts them until it is stopped.
func (n *network) queueAttached(seen chan<- attached) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	number := strconv.Itoa(attributePort)
	for _, port := range []string{"--dport", "--sport"} {
		err = errors.Join(err, n.Gateway.IPTables(ctx, "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", port, number, "-j", "NFQUEUE", "--queue-num", number))
	}
	var q *nfq.Nfqueue
	err = errors.Join(err, n.Gateway.Do(func() (err error) {
		q, err = nfq.Open(&nfq.Config{NfQueue: attributePort, MaxPacketLen: 100, Copymode: nfq.NfQnlCopyPacket, AfFamily: unix.AF_INET, Flags: nfq.NfQaCfgFlagConntrack})
		return err
	}))
	if err != nil {
		cancel()
		return nil, err
	}
	return func() { cancel(); q.Close() }, q.RegisterWithErrorFunc(ctx, func(a nfq.Attribute) int {
		if a.Ct != nil {
			select {
			case seen <- readAttached(*a.Ct):
			default: // more than anybody looks at
			}
		}
		_ = q.SetVerdictWithOption(*a.PacketID, nfq.NfAccept, nfq.WithLabel(label)) // a packet without a verdict is missed
		return 0
	}, func(error) int { return 1 })
}

// Attributes of a conntrack entry (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaLabels     = 22

	ctaTupleIP    = 1 // in a tuple
	ctaTupleProto = 2

	ctaIPv4Src = 1 // in ctaTupleIP
	ctaIPv4Dst = 2
	ctaDstPort = 3 // in ctaTupleProto
)

// readAttached reads an entry. What is not there stays zero.
func readAttached(ct []byte) (a attached) {
	a.client, _ = netip.AddrFromSlice(inside(ct, ctaTupleOrig, ctaTupleIP, ctaIPv4Src))
	addr, _ := netip.AddrFromSlice(inside(ct, ctaTupleReply, ctaTupleIP, ctaIPv4Dst))
	if port := inside(ct, ctaTupleReply, ctaTupleProto, ctaDstPort); len(port) == 2 {
		a.public = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
	}
	a.label = inside(ct, ctaLabels)
	return a
}

// inside returns the data of the attribute at a path of types, nil for none.
func inside(b []byte, path ...uint16) []byte {
	for _, typ := range path {
		attrs, _ := netlink.UnmarshalAttributes(b) // none of what is no attributes
		i := slices.IndexFunc(attrs, func(a netlink.Attribute) bool { return a.Type&^netlink.Nested == typ })
		if i < 0 {
			return nil
		}
		b = attrs[i].Data
	}
	return b
}

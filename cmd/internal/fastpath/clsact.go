package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

// Where a program is attached in a qdisc of kind clsact (linux/pkt_sched.h).
const (
	clsactHandle  = 0xffff0000
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	clsactIngress = 0xfffffff2
	clsactEgress  = 0xfffffff3
)

// Attributes of a filter of kind bpf (linux/pkt_cls.h).
const (
	tcaBPFFD        = 6
	tcaBPFName      = 7
	tcaBPFFlags     = 8
	tcaBPFDirect    = 1 // TCA_BPF_FLAG_ACT_DIRECT
	filterPriority  = 0x7070
	filterOurHandle = 0x7070
)

// tcmsg is struct tcmsg (linux/rtnetlink.h).
func tcmsg(index int, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

func parentOf(at hook) uint32 {
	if at == egress {
		return clsactEgress
	}
	return clsactIngress
}

// filterInfo is our filters' priority, and the protocol that they see, which is IPv4.
func filterInfo() uint32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], unix.ETH_P_IP)
	return filterPriority<<16 | uint32(binary.NativeEndian.Uint16(b[:]))
}

// rtnetlink sends one request about traffic control.
func rtnetlink(kind netlink.HeaderType, flags netlink.HeaderFlags, body []byte, fill func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ae := netlink.NewAttributeEncoder()
	if fill != nil {
		fill(ae)
	}
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: append(body, attributes...)})
}

// addFilter attaches a program as kernels before 6.6 can, which have no tcx: in a qdisc of
// kind clsact. It reports whether it has made that. A program that was attached so is
// replaced. Nothing detaches it when processes end.
func addFilter(index, fd int, at hook) (made bool, err error) {
	_, err = rtnetlink(unix.RTM_NEWQDISC, netlink.Acknowledge|netlink.Create|netlink.Excl, tcmsg(index, clsactHandle, clsactParent, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.TCA_KIND, "clsact")
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("make qdisc clsact: %w", err)
	}
	made = err == nil
	_, err = rtnetlink(unix.RTM_NEWTFILTER, netlink.Acknowledge|netlink.Create|netlink.Replace, tcmsg(index, filterOurHandle, parentOf(at), filterInfo()), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.TCA_KIND, "bpf")
		ae.Nested(unix.TCA_OPTIONS, func(n *netlink.AttributeEncoder) error {
			n.Uint32(tcaBPFFD, uint32(fd))
			n.String(tcaBPFName, ports.ProgramPrefix)
			n.Uint32(tcaBPFFlags, tcaBPFDirect)
			return nil
		})
	})
	if err != nil {
		return made, fmt.Errorf("attach a filter: %w", err)
	}
	return made, nil
}

// removeFilter detaches what addFilter has attached, if it is there.
func removeFilter(index int, at hook) {
	rtnetlink(unix.RTM_DELTFILTER, netlink.Acknowledge, tcmsg(index, filterOurHandle, parentOf(at), filterInfo()), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.TCA_KIND, "bpf")
	})
}

// removeFilters detaches both filters of an interface, and removes the qdisc if it is ours and
// nobody else's filters are there.
func removeFilters(index int, ours bool) {
	removeFilter(index, ingress)
	removeFilter(index, egress)
	if !ours || filtered(index, ingress) || filtered(index, egress) {
		return
	}
	rtnetlink(unix.RTM_DELQDISC, netlink.Acknowledge, tcmsg(index, clsactHandle, clsactParent, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.TCA_KIND, "clsact")
	})
}

// removeAllFilters removes the filters of all ports.
func removeAllFilters(s *pinned) {
	all, err := s.ports()
	if err != nil {
		return
	}
	for _, p := range all {
		if p.Clsact&byCLSACT != 0 {
			removeFilters(int(p.Ifindex), p.Clsact&madeCLSACT != 0)
		}
	}
}

// filtered reports whether an interface has filters.
func filtered(index int, at hook) bool {
	found, err := rtnetlink(unix.RTM_GETTFILTER, netlink.Dump, tcmsg(index, 0, parentOf(at), 0), nil)
	return err != nil || len(found) > 0
}

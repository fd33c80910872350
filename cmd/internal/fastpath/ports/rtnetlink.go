package ports

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sizes of headers of linux/rtnetlink.h, linux/if_addr.h.
const (
	ifinfomsgLen = 16
	ifaddrmsgLen = 8
	tcmsgLen     = 20
)

// Parents in struct tcmsg (linux/pkt_sched.h). Qdisc ingress answers as clsact does.
const (
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	clsactIngress = 0xfffffff2
	clsactEgress  = 0xfffffff3
)

// tcaBPFName is the name of a filter of kind bpf (linux/pkt_cls.h).
const tcaBPFName = 7

// skipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const skipStats = 1 << 3

// dump asks for all of something. If it changes meanwhile, dump asks again, a few times:
// something may be missing from the answer.
func dump(c *netlink.Conn, typ netlink.HeaderType, body []byte) (msgs []netlink.Message, err error) {
	for range 5 {
		msgs, err = c.Execute(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump}, Data: body})
		if err != nil || !slices.ContainsFunc(msgs, func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			break
		}
	}
	return msgs, err
}

func askLinks(c *netlink.Conn) ([]link, error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(unix.IFLA_EXT_MASK, skipStats)
	skip, err := e.Encode()
	if err != nil {
		return nil, err
	}
	msgs, err := dump(c, unix.RTM_GETLINK, append(make([]byte, ifinfomsgLen), skip...))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return decodeLinks(msgs)
}

func decodeLinks(msgs []netlink.Message) ([]link, error) {
	var all []link
	for _, m := range msgs {
		l, err := decodeLink(m.Data)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func askAddresses(c *netlink.Conn) (map[int]bool, error) {
	body := make([]byte, ifaddrmsgLen)
	body[0] = unix.AF_INET
	msgs, err := dump(c, unix.RTM_GETADDR, body)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return decodeAddresses(msgs), nil
}

// decodeAddresses returns the interfaces that have an IPv4 address.
func decodeAddresses(msgs []netlink.Message) map[int]bool {
	all := make(map[int]bool)
	for _, m := range msgs {
		if len(m.Data) >= ifaddrmsgLen {
			all[int(binary.NativeEndian.Uint32(m.Data[4:]))] = true
		}
	}
	return all
}

func askQdiscs(c *netlink.Conn) (map[int][]string, error) {
	msgs, err := dump(c, unix.RTM_GETQDISC, make([]byte, tcmsgLen))
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	return decodeQdiscs(msgs)
}

// decodeQdiscs returns the kinds on each interface's way out.
func decodeQdiscs(msgs []netlink.Message) (map[int][]string, error) {
	all := make(map[int][]string)
	for _, m := range msgs {
		t, err := decodeTC(m.Data)
		if err != nil {
			return nil, fmt.Errorf("decode qdisc: %w", err)
		}
		if t.parent != clsactParent {
			all[t.index] = append(all[t.index], t.kind)
		}
	}
	return all, nil
}

// askClassifiers counts filters. Ours have our name, which everybody may read.
func askClassifiers(c *netlink.Conn, index int, parent uint32, n *owned) error {
	body := make([]byte, tcmsgLen)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	binary.NativeEndian.PutUint32(body[12:], parent)
	msgs, err := dump(c, unix.RTM_GETTFILTER, body)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		t, err := decodeTC(m.Data)
		if err != nil {
			return fmt.Errorf("decode filter: %w", err)
		}
		if t.handle != 0 { // or it is the list that holds the filters
			n.add(strings.HasPrefix(t.name, ProgramPrefix))
		}
	}
	return nil
}

// tc is what matters of a qdisc or filter.
type tc struct {
	index          int
	handle, parent uint32
	kind           string
	name           string // of a filter of kind bpf
}

func decodeTC(b []byte) (tc, error) {
	if len(b) < tcmsgLen {
		return tc{}, fmt.Errorf("%d bytes", len(b))
	}
	t := tc{
		index:  int(int32(binary.NativeEndian.Uint32(b[4:]))),
		handle: binary.NativeEndian.Uint32(b[8:]),
		parent: binary.NativeEndian.Uint32(b[12:]),
	}
	d, err := netlink.NewAttributeDecoder(b[tcmsgLen:])
	if err != nil {
		return tc{}, err
	}
	var options []byte
	for d.Next() {
		switch d.Type() {
		case unix.TCA_KIND:
			t.kind = d.String()
		case unix.TCA_OPTIONS:
			options = d.Bytes()
		}
	}
	if t.kind == "bpf" && d.Err() == nil {
		t.decodeBPF(options)
	}
	return t, d.Err()
}

// decodeBPF reads a filter's options. What cannot be read stays empty, and is another's.
func (t *tc) decodeBPF(options []byte) {
	d, err := netlink.NewAttributeDecoder(options)
	if err != nil {
		return
	}
	for d.Next() {
		if d.Type() == tcaBPFName {
			t.name = d.String()
		}
	}
}

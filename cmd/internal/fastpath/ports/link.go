package ports

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// link is what matters of an interface. Links with the same values are the same to the fast
// path.
type link struct {
	index  int
	name   string
	kind   string // as ip(8) names it; "" for most hardware
	typ    uint16 // ARPHRD_*
	flags  uint32 // of those in mattering
	mac    string // the bytes
	mtu    uint32
	master int // 0: none
	lower  int // the interface that this one stands on, or its peer; 0: none, or in another namespace
	slave  string
	xdp    [3]uint32 // programs attached: by the driver, by the kernel behind it, on the card
}

// mattering are the flags that change what happens to packets.
const mattering = unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_LOOPBACK

// decodeLink reads an RTM_NEWLINK or RTM_DELLINK.
func decodeLink(b []byte) (link, error) {
	if len(b) < ifinfomsgLen {
		return link{}, fmt.Errorf("decode link: %d bytes", len(b))
	}
	l := link{
		typ:   binary.NativeEndian.Uint16(b[2:]),
		index: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		flags: binary.NativeEndian.Uint32(b[8:]) & mattering,
	}
	d, err := netlink.NewAttributeDecoder(b[ifinfomsgLen:])
	if err != nil {
		return link{}, fmt.Errorf("decode link: %w", err)
	}
	elsewhere := false
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_ADDRESS:
			l.mac = string(d.Bytes())
		case unix.IFLA_MTU:
			l.mtu = d.Uint32()
		case unix.IFLA_MASTER:
			l.master = int(d.Uint32())
		case unix.IFLA_LINK:
			l.lower = int(d.Uint32())
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_LINKINFO:
			d.Nested(l.decodeInfo)
		case unix.IFLA_XDP:
			d.Nested(l.decodeXDP)
		}
	}
	if err := d.Err(); err != nil {
		return link{}, fmt.Errorf("decode link: %w", err)
	}
	if elsewhere || l.lower == l.index {
		l.lower = 0
	}
	return l, nil
}

func (l *link) decodeInfo(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_INFO_KIND:
			l.kind = d.String()
		case unix.IFLA_INFO_SLAVE_KIND:
			l.slave = d.String()
		}
	}
	return nil
}

func (l *link) decodeXDP(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_XDP_DRV_PROG_ID:
			l.xdp[0] = d.Uint32()
		case unix.IFLA_XDP_SKB_PROG_ID:
			l.xdp[1] = d.Uint32()
		case unix.IFLA_XDP_HW_PROG_ID:
			l.xdp[2] = d.Uint32()
		}
	}
	return nil
}

func (l *link) up() bool       { return l.flags&unix.IFF_UP != 0 }
func (l *link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }

// ethernet returns the interface's address, nil if it has no Ethernet header.
func (l *link) ethernet() net.HardwareAddr {
	if l.typ != unix.ARPHRD_ETHER || len(l.mac) != 6 {
		return nil
	}
	return net.HardwareAddr(l.mac)
}

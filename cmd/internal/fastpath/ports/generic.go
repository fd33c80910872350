package ports

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of the families of generic netlink (linux/netdev.h, linux/ethtool_netlink.h).
const (
	genlmsgLen    = 4
	genlCtrl      = unix.GENL_ID_CTRL
	ethtoolGet    = 11 // ETHTOOL_MSG_FEATURES_GET
	ethtoolHeader = 1  // ETHTOOL_A_FEATURES_HEADER
	ethtoolIndex  = 1  // ETHTOOL_A_HEADER_DEV_INDEX
	ethtoolActive = 4  // ETHTOOL_A_FEATURES_ACTIVE
	bitsetBits    = 3
	bitsetBit     = 1
	bitName       = 2
	netdevGet     = 1 // NETDEV_CMD_DEV_GET
	netdevIndex   = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDP     = 3 // NETDEV_A_DEV_XDP_FEATURES
	netdevGroup   = "mgmt"
	untagFeature  = "rx-vlan-hw-parse"
)

// family is one of generic netlink.
type family struct {
	id     uint16
	groups map[string]uint32
}

// errNoFamily says that the kernel does not have a family.
var errNoFamily = errors.New("no such family of generic netlink")

// dialGeneric opens a socket and finds a family.
func dialGeneric(name string) (*netlink.Conn, family, error) {
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, family{}, errNoFamily
	}
	if err != nil {
		return nil, family{}, err
	}
	f, err := findFamily(c, name)
	if err != nil {
		return nil, family{}, errors.Join(err, c.Close())
	}
	return c, f, nil
}

func findFamily(c *netlink.Conn, name string) (family, error) {
	e := netlink.NewAttributeEncoder()
	e.String(unix.CTRL_ATTR_FAMILY_NAME, name)
	msgs, err := generic(c, genlCtrl, unix.CTRL_CMD_GETFAMILY, 0, e)
	if errors.Is(err, unix.ENOENT) {
		return family{}, errNoFamily
	}
	if err != nil {
		return family{}, err
	}
	f := family{groups: make(map[string]uint32)}
	for _, m := range msgs {
		d, err := decodeGeneric(m.Data)
		if err != nil {
			return family{}, err
		}
		for d.Next() {
			switch d.Type() {
			case unix.CTRL_ATTR_FAMILY_ID:
				f.id = d.Uint16()
			case unix.CTRL_ATTR_MCAST_GROUPS:
				d.Nested(f.decodeGroups)
			}
		}
		if err := d.Err(); err != nil {
			return family{}, err
		}
	}
	return f, nil
}

func (f *family) decodeGroups(d *netlink.AttributeDecoder) error {
	for d.Next() {
		d.Nested(func(d *netlink.AttributeDecoder) error {
			name, id := "", uint32(0)
			for d.Next() {
				switch d.Type() {
				case unix.CTRL_ATTR_MCAST_GRP_NAME:
					name = d.String()
				case unix.CTRL_ATTR_MCAST_GRP_ID:
					id = d.Uint32()
				}
			}
			f.groups[name] = id
			return nil
		})
	}
	return nil
}

// generic sends a request to a family.
func generic(c *netlink.Conn, family uint16, command uint8, flags netlink.HeaderFlags, e *netlink.AttributeEncoder) ([]netlink.Message, error) {
	attrs, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(family), Flags: netlink.Request | flags},
		Data:   append([]byte{command, 1, 0, 0}, attrs...),
	})
}

func decodeGeneric(b []byte) (*netlink.AttributeDecoder, error) {
	if len(b) < genlmsgLen {
		return nil, fmt.Errorf("decode generic netlink: %d bytes", len(b))
	}
	return netlink.NewAttributeDecoder(b[genlmsgLen:])
}

// askFeatures returns each interface's features of XDP, nil if the kernel cannot tell.
func askFeatures() (map[int]uint64, error) {
	c, f, err := dialGeneric("netdev")
	if errors.Is(err, errNoFamily) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	msgs, err := generic(c, f.id, netdevGet, netlink.Dump, netlink.NewAttributeEncoder())
	if err != nil {
		return nil, err
	}
	return decodeFeatures(msgs)
}

func decodeFeatures(msgs []netlink.Message) (map[int]uint64, error) {
	all := make(map[int]uint64)
	for _, m := range msgs {
		d, err := decodeGeneric(m.Data)
		if err != nil {
			return nil, err
		}
		index, features := 0, uint64(0)
		for d.Next() {
			switch d.Type() {
			case netdevIndex:
				index = int(d.Uint32())
			case netdevXDP:
				features = d.Uint64()
			}
		}
		if err := d.Err(); err != nil {
			return nil, err
		}
		all[index] = features
	}
	return all, nil
}

// askUntags reports whether a card takes VLAN tags off. Where that cannot be known, it does.
func askUntags(index int) (bool, error) {
	c, f, err := dialGeneric("ethtool")
	if errors.Is(err, errNoFamily) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	defer c.Close()
	e := netlink.NewAttributeEncoder()
	e.Nested(ethtoolHeader, func(e *netlink.AttributeEncoder) error {
		e.Uint32(ethtoolIndex, uint32(index))
		return nil
	})
	msgs, err := generic(c, f.id, ethtoolGet, 0, e)
	if err != nil {
		return true, err
	}
	for _, m := range msgs {
		active, err := decodeActive(m.Data)
		if err != nil {
			return true, err
		}
		if slices.Contains(active, untagFeature) {
			return true, nil
		}
	}
	return false, nil
}

// decodeActive returns the names of the features that are on.
func decodeActive(b []byte) (active []string, err error) {
	d, err := decodeGeneric(b)
	if err != nil {
		return nil, err
	}
	for d.Next() {
		if d.Type() == ethtoolActive {
			d.Nested(func(d *netlink.AttributeDecoder) error {
				active = decodeBitset(d)
				return nil
			})
		}
	}
	return active, d.Err()
}

func decodeBitset(d *netlink.AttributeDecoder) (all []string) {
	for d.Next() {
		if d.Type() != bitsetBits {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				d.Nested(func(d *netlink.AttributeDecoder) error {
					for d.Next() {
						if d.Type() == bitName {
							all = append(all, d.String())
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	return all
}

package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/follow"
)

// VRF is a VRF's device.
type VRF struct {
	Name  string
	Index uint32
}

// vrfKind is what the kernel calls such devices.
const vrfKind = "vrf"

// linkHeader is the length of struct ifinfomsg in linux/rtnetlink.h; indexAt is where it has
// the device's number.
const (
	linkHeader = 16
	indexAt    = 4
)

// linkGroup is RTNLGRP_LINK of linux/rtnetlink.h, and skipStats its RTEXT_FILTER_SKIP_STATS.
const (
	linkGroup = 1
	skipStats = 1 << 3
)

// VRFs returns the devices of the VRFs in the caller's network namespace.
func VRFs() ([]VRF, error) { return new(Firewall).vrfs() }

// watchVRFs is watchLinks for VRFs.
func (f *Firewall) watchVRFs(ctx context.Context, changed func()) error {
	if f.hear != nil {
		return f.hear(ctx, changed)
	}
	return f.watchLinks(ctx, vrfKind, changed)
}

// dialLinks opens a socket that tells of devices.
func (f *Firewall) dialLinks() (*netlink.Conn, error) {
	if f.dial != nil {
		return f.dial()
	}
	return netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: f.NetNS})
}

// vrfs returns the devices of the VRFs.
func (f *Firewall) vrfs() ([]VRF, error) {
	c, err := f.dialLinks()
	if err != nil {
		return nil, fmt.Errorf("list VRFs: %w", err)
	}
	defer c.Close()
	for range attempts {
		var msgs []netlink.Message
		if msgs, err = c.Execute(vrfRequest()); err != nil {
			return nil, fmt.Errorf("list VRFs: %w", err)
		}
		if !slices.ContainsFunc(msgs, interrupted) {
			return listedVRFs(msgs), nil
		}
	}
	return nil, errors.New("list VRFs: devices come and go all the time")
}

// interrupted reports whether a list may lack something, because it changed meanwhile.
func interrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

// vrfRequest asks for the devices of one kind. A kernel without this kind, and an old one, lists
// all devices.
func vrfRequest() netlink.Message {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.IFLA_EXT_MASK, skipStats)
	ae.Nested(unix.IFLA_LINKINFO, func(nae *netlink.AttributeEncoder) error {
		nae.String(unix.IFLA_INFO_KIND, vrfKind)
		return nil
	})
	attrs, err := ae.Encode()
	if err != nil {
		panic("iptables: request for VRFs: " + err.Error()) // constant input
	}
	return netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   append(make([]byte, linkHeader), attrs...),
	}
}

// listedVRFs returns the VRFs among listed devices.
func listedVRFs(msgs []netlink.Message) []VRF {
	var all []VRF
	for _, m := range msgs {
		if v, ok := asVRF(m); ok {
			all = append(all, v)
		}
	}
	return all
}

// asVRF returns the device that a message is about, if it is a VRF's.
func asVRF(m netlink.Message) (VRF, bool) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < linkHeader {
		return VRF{}, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[linkHeader:])
	if err != nil {
		return VRF{}, false
	}
	v, kind := VRF{Index: binary.NativeEndian.Uint32(m.Data[indexAt:])}, ""
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			v.Name = ad.String()
		case unix.IFLA_LINKINFO:
			ad.Nested(func(nad *netlink.AttributeDecoder) error {
				for nad.Next() {
					if nad.Type() == unix.IFLA_INFO_KIND {
						kind = nad.String()
					}
				}
				return nil
			})
		}
	}
	return v, ad.Err() == nil && v.Name != "" && kind == vrfKind
}

// kindFilter is a socket filter that passes only events of devices of a kind: a gateway of
// thousands of PPP sessions has many others. It finds the attribute IFLA_LINKINFO behind the two
// headers, and in it IFLA_INFO_KIND.
func kindFilter(kind string) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegA, Val: unix.NLMSG_HDRLEN + linkHeader},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.IFLA_LINKINFO},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.IFLA_INFO_KIND},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttrNested},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.TAX{},
	}
	for i, c := range []byte(kind + "\x00") {
		program = append(program,
			bpf.LoadIndirect{Off: unix.NLA_HDRLEN + uint32(i), Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(c), SkipTrue: 1},
			bpf.RetConstant{Val: 0})
	}
	return append(program, bpf.RetConstant{Val: 0xffffffff})
}

// listenToLinks has a socket tell when devices of a kind come, change and go.
func listenToLinks(c *netlink.Conn, kind string) error {
	program, err := bpf.Assemble(kindFilter(kind))
	if err != nil {
		return fmt.Errorf("assemble filter of devices' events: %w", err)
	}
	if err := c.SetBPF(program); err != nil { // before the group is joined
		return fmt.Errorf("filter devices' events: %w", err)
	}
	return c.JoinGroup(linkGroup)
}

// watchLinks calls changed when a device of a kind may have come, gone or got another name, until
// ctx is done.
func (f *Firewall) watchLinks(ctx context.Context, kind string, changed func()) error {
	c, err := f.dialLinks()
	if err != nil {
		return fmt.Errorf("listen to devices' events: %w", err)
	}
	defer c.Close()
	if err := listenToLinks(c, kind); err != nil {
		return fmt.Errorf("listen to devices' events: %w", err)
	}
	if err := follow.Socket(ctx, c, changed); err != nil {
		return fmt.Errorf("listen to devices' events: %w", err)
	}
	return nil
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was told already
	}
}

// keepPause is the shortest time from one look at the rules about VRFs to the next, where other
// rules change.
const keepPause = 50 * time.Millisecond

// keepVRFs keeps the rules about VRFs up to date until ctx is done. It looks whenever a VRF
// changes. While there is one it also looks when rules change: whoever has loaded ours may not
// have known it yet.
func (f *Firewall) keepVRFs(ctx context.Context, vrfs, others <-chan struct{}) error {
	var known []VRF
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-vrfs:
			if known, err = f.vrfs(); err == nil {
				err = f.putVRFs(ctx, known)
			}
		case <-others:
			if len(known) > 0 {
				err = errors.Join(pause(ctx, keepPause), f.putVRFs(ctx, known))
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("keep rules about VRFs up to date: %w", err)
		}
	}
}

// putVRFs brings the rules about VRFs up to date, in one atomic step for each table. It changes
// nothing in a chain that others have emptied.
func (f *Firewall) putVRFs(ctx context.Context, vrfs []VRF) error {
	control := ""
	err := f.change(ctx, []string{marker}, func(current map[string]string) string {
		control = current[marker]
		return vrfText(marker, Chain, control, vrfs)
	})
	if err != nil || !declared(DataChain, control) {
		return err
	}
	return f.change(ctx, []string{enteringTable}, func(current map[string]string) string {
		return vrfText(enteringTable, DataChain, current[enteringTable], vrfs)
	})
}

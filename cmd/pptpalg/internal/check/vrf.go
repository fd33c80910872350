package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// A packet that comes by a member of a VRF passes prerouting twice, the second time with the
// VRF's device as its interface, and that is the one that forward sees. One that is routed to a
// VRF's device passes output and postrouting again on its way to the member. So VRFs are copied.

// vrf is a VRF.
type vrf struct {
	dev     string
	index   int
	table   int
	members []string
}

// readVRFs keeps those that are listed among links.
func (n *network) readVRFs(listed []ipLink) error {
	for _, l := range listed {
		if l.LinkInfo.Kind != "vrf" {
			continue
		}
		var of struct{ Table int }
		if err := json.Unmarshal(l.LinkInfo.Data, &of); err != nil {
			return err
		}
		v := vrf{dev: l.Name, index: l.Index, table: of.Table}
		for _, m := range listed {
			if m.Master == l.Name {
				v.members = append(v.members, m.Name)
			}
		}
		n.vrfs = append(n.vrfs, v)
	}
	return nil
}

// vrfOf returns the VRF that an interface is a member of.
func (n network) vrfOf(dev string) (vrf, bool) {
	i := slices.IndexFunc(n.vrfs, func(v vrf) bool { return slices.Contains(v.members, dev) })
	if i < 0 {
		return vrf{}, false
	}
	return n.vrfs[i], true
}

// routedBy is the interface that routing and forward know an interface by: of a member it is the
// VRF's device.
func (n network) routedBy(dev string) string {
	if v, member := n.vrfOf(dev); member {
		return v.dev
	}
	return dev
}

// routedTo is the interface by which routing sends packets to another one, from a VRF or, with
// none, from outside of all: the VRF's device of a member, unless they are in the same VRF or a
// route leads to the member itself.
func (n network) routedTo(dev string, from vrf) string {
	v, member := n.vrfOf(dev)
	if !member || v.dev == from.dev {
		return dev
	}
	leaks := func(r route) bool { return r.dev == dev && n.ofTable(r.table).dev == from.dev }
	if slices.ContainsFunc(n.routes, leaks) {
		return dev
	}
	return v.dev
}

// ofTable returns the VRF that has a table of routes. A table may have a name: then it is the one
// with the addresses of a member.
func (n network) ofTable(table string) vrf {
	i := slices.IndexFunc(n.vrfs, func(v vrf) bool {
		itsAddress := func(r route) bool { return r.table == table && slices.Contains(v.members, r.dev) }
		return strconv.Itoa(v.table) == table || slices.ContainsFunc(n.locals, itsAddress)
	})
	if i < 0 {
		return vrf{}
	}
	return n.vrfs[i]
}

// arriving returns the interfaces by which packets come: members in place of their VRF's device.
func (n network) arriving(devs []string) []string {
	var all []string
	for _, dev := range devs {
		if i := slices.IndexFunc(n.vrfs, func(v vrf) bool { return v.dev == dev }); i >= 0 {
			all = append(all, n.vrfs[i].members...)
		} else {
			all = append(all, dev)
		}
	}
	return unique(all)
}

// makeVRFs returns what ip is told to make the VRFs that stand-ins are members of.
func (s surroundings) makeVRFs() []string {
	var lines []string
	for _, v := range s.network.vrfs {
		lines = append(lines, fmt.Sprintf("link add %s index %d type vrf table %d", v.dev, v.index, v.table), fmt.Sprintf("link set %s up", v.dev))
		for _, dev := range v.members {
			if _, there := s.devs[dev]; there {
				lines = append(lines, fmt.Sprintf("link set %s master %s", dev, v.dev))
			}
		}
	}
	return lines
}

// ways returns what ip is told to route packets to where they are to be tried.
func (s surroundings) ways() []string {
	lines := []string{fmt.Sprintf("rule add priority 0 lookup %d", hostTable)}
	if len(s.network.vrfs) > 0 {
		lines = append([]string{"rule add priority 0 l3mdev"}, lines...) // it comes first
	}
	for _, h := range s.network.hosts {
		lines = append(lines, fmt.Sprintf("route add to %v dev %s table %d", h.addr, standIn(s.network.routedTo(h.dev, vrf{})), hostTable))
		for _, v := range s.network.vrfs {
			lines = append(lines, fmt.Sprintf("route replace to %v dev %s table %d", h.addr, standIn(s.network.routedTo(h.dev, v)), v.table))
		}
	}
	return lines
}

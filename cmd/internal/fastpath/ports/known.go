package ports

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// known are the links as they were told last. The kernel tells of a link for many reasons,
// statistics and wireless scans among them; what has not changed here does not matter.
type known struct {
	asks  *netlink.Conn // as Watch's thread may be in another namespace by then
	links map[int]link
}

// read returns what a message of linkGroups says.
func (k *known) read(m netlink.Message) Change {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A bridge tells of its ports in messages of its own family.
		if l, err := decodeLink(m.Data); err == nil && m.Data[0] == unix.AF_UNSPEC {
			return k.link(l, m.Header.Type == unix.RTM_DELLINK)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return Change{Addresses: true}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return Change{Rules: true}
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return Change{Links: true}
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		return readQdisc(m)
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		return Change{Filters: true}
	}
	return Change{}
}

// readQdisc tells the qdiscs that hold filters from those on the way out. The kernel does not
// tell of the filters that go with one.
func readQdisc(m netlink.Message) Change {
	if len(m.Data) < tcmsgLen {
		return Change{}
	}
	holds := binary.NativeEndian.Uint32(m.Data[12:]) == clsactParent
	return Change{Links: !holds, Filters: holds && m.Header.Type == unix.RTM_DELQDISC}
}

// link takes up what was told of a link.
func (k *known) link(l link, gone bool) Change {
	before, there := k.links[l.index]
	switch {
	case gone && there:
		delete(k.links, l.index)
		return Change{Links: true, Went: []string{before.name}}
	case gone:
		return Change{}
	case there && before == l:
		return Change{}
	}
	k.links[l.index] = l
	c := Change{Links: true}
	if there && before.name != l.name {
		c.Went = []string{before.name}
	}
	if !there || before.name != l.name {
		c.Came = []string{l.name}
	}
	return c
}

// lost reads all links anew, and finds out which came and went.
func (k *known) lost() (Change, error) {
	links, err := askLinks(k.asks)
	if err != nil {
		return Change{}, err
	}
	return k.replace(links), nil
}

func (k *known) replace(links []link) Change {
	all := everything
	before := maps.Clone(k.links)
	for _, l := range links {
		c := k.link(l, false)
		all.Came, all.Went = append(all.Came, c.Came...), append(all.Went, c.Went...)
		delete(before, l.index)
	}
	for _, index := range slices.Sorted(maps.Keys(before)) {
		all.add(k.link(before[index], true))
	}
	return all
}

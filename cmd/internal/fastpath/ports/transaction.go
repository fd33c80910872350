package ports

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transaction follows the messages of nftables' transactions. Each says what it has changed
// and ends with the ruleset's new generation, when all of it is in force.
type transaction struct {
	any, matters bool
}

func (t *transaction) read(m netlink.Message) Change {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) == 0 {
		return Change{}
	}
	if m.Header.Type&0xff != unix.NFT_MSG_NEWGEN {
		family := m.Data[0]
		t.any, t.matters = true, t.matters || family != unix.NFPROTO_IPV6 && family != unix.NFPROTO_ARP
		return Change{}
	}
	// Of a transaction that was not seen whole, nothing is known.
	changed := t.matters || !t.any
	*t = transaction{}
	return Change{Ruleset: changed}
}

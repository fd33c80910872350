package rules

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// DefaultMark is a bit of the packet mark that others seldom use.
const DefaultMark = 0x40000000

// Data says to which queues the calls' GRE packets go. The zero value has none: the kernel
// translates.
//
//	raw PREROUTING, OUTPUT,        NFQUEUE ─► daemon: rewrites the destination, marks what
//	first rule                        │       is a call's, and has the packet repeat the table
//	                                  └─► a call's: NOTRACK, unmarked, ACCEPT; else unmarked, next rule
//	filter FORWARD, INPUT, OUTPUT,  ACCEPT, for the packets of calls
//	first rule
//	mangle POSTROUTING, INPUT,     NFQUEUE ─► daemon: rewrites the source, and has the packet
//	first rule                        │       repeat the table
//	                                  └─► unmarked, next rule
//
// Conntrack does not see a call's packets: they are UNTRACKED. So it has no entry of them
// that could be another connection's, they pass no rule of table nat, and a full table does
// not stop them. Their form and UNTRACKED identify them after the first table. A mark could
// not: CONNMARK --restore-mark and MARK overwrite it, and "ip rule fwmark 1" does not match
// 0x40000001. So our chain clears the daemon's marks before the packet leaves it.
//
// Our rules come first. In raw, an earlier rule with a conntrack zone would make conntrack
// track the packet, whatever a later rule says, and a rule that accepts would keep the
// packet from ours. So calls' packets skip the administrator's rules in raw. All other GRE
// still passes these rules, because the daemon lets it repeat the table too, and it
// continues behind our rules.
//
// If the daemon will translate a packet's source, it gives the packet the mark of its
// control connection, as CONNMARK --restore-mark would, so that routing by connection mark
// keeps both on one way.
//
// Errors of routers about the calls' packets, ICMP that quotes enhanced GRE, go the same way.
type Data struct {
	Queue  uint16 // the first queue
	Queues int    // their number, Queue and those after it; 0 is no rule at all
	// ByCPU gives each processor its own queue, instead of each pair of addresses. All
	// packets of one server to one public address are one pair. The network card chooses
	// the processor for a packet, or RPS, whose hash includes the Call ID.
	ByCPU bool
	// Bypass lets packets pass unchanged while no daemon reads the queue, instead of
	// dropping them. Such an untranslated packet is for the gateway itself, which answers
	// "protocol unreachable", and some servers end the call for that.
	Bypass bool
	// Mark is one or several bits of the packet mark by which the daemon tells our rules,
	// within one table, which packets are a call's; one more bit says that it has seen a
	// packet (Marks). Packets must not come with either. 0 is DefaultMark without the rules
	// that accept calls' packets: for a firewall that lets untracked GRE pass.
	Mark uint32
}

// Marks returns the bits that the daemon sets: on a call's packet that comes in, and on any
// other packet that it has seen.
func (d Data) Marks() (call, seen uint32) {
	call = cmp.Or(d.Mark, DefaultMark)
	seen = bits.RotateLeft32(1<<(bits.Len32(call)-1), 1)
	for call&seen != 0 && call != math.MaxUint32 {
		seen = bits.RotateLeft32(seen, 1)
	}
	return call, seen
}

func (d Data) validate(control uint16) error {
	last := int(d.Queue) + d.Queues - 1
	switch {
	case d.Queues == 0:
		return nil
	case d.Queues < 0 || last > 0xffff:
		return fmt.Errorf("validate data queues: %d queues from number %d: use 1 or more, and numbers up to 65535", d.Queues, d.Queue)
	case int(control) >= int(d.Queue) && int(control) <= last:
		return fmt.Errorf("validate data queues: %d is the queue of control connections", control)
	case d.Mark == math.MaxUint32:
		return errors.New("validate data mark: it leaves no bit free: give one bit")
	}
	return nil
}

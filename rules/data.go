package rules

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// DataChain is our own chain of data path queue, in tables raw, mangle and filter. As with
// Chain, all rules in it and all jumps to it are ours.
const DataChain = "PPTPALG-GRE"

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
		return fmt.Errorf("validate data queues: %d from number %d: give 1 or more, numbered up to 65535", d.Queues, d.Queue)
	case int(control) >= int(d.Queue) && int(control) <= last:
		return fmt.Errorf("validate data queues: %d is the queue of control connections", control)
	case d.Mark == math.MaxUint32:
		return errors.New("validate data mark: it leaves no bit: give one bit")
	}
	return nil
}

// part is the data path's rules in one table.
type part struct {
	table        string
	rules, jumps []string
}

// marker is the table that has DataChain whenever rules of the data path may be loaded: it
// gets the chain first, and loses it last.
const marker = "mangle"

// parts returns the rules in the order in which they are loaded: GRE is queued once
// everything is ready for it.
func (d Data) parts() []part {
	parts := []part{d.leaving(), {table: "filter"}, d.entering()}
	if d.Mark != 0 {
		parts[1] = accepting
	}
	return parts
}

// The packets of calls, and errors about them, by xt_u32. Enhanced GRE: from the IP
// header's length to the GRE header, there version 1 and protocol type 0x880b (RFC 2637
// section 4.1). Packets of other tunnels are never queued. An error, of type 3, 11 or 12:
// behind its 8 bytes an IP header of protocol 47, and behind that enhanced GRE.
const (
	enhancedGRE = `-p gre -m u32 --u32 "0>>22&0x3c@0&0x7ffff=0x1880b"`
	aboutGRE    = `-p icmp -m u32 --u32 "0>>22&0x3c@0>>24=3,11:12&&0>>22&0x3c@16>>16&0xff=47&&0>>22&0x3c@8>>22&0x3c@8&0x7ffff=0x1880b"`
	untracked   = "-m conntrack --ctstate UNTRACKED"
)

// first returns jumps to our chain at the head of another chain, for packets that a match
// selects.
func first(chain, match string) []string {
	var jumps []string
	for _, packets := range []string{enhancedGRE, aboutGRE} {
		jumps = append(jumps, strings.Join(strings.Fields(fmt.Sprintf("-I %s %s %s -j %s", chain, match, packets, DataChain)), " "))
	}
	return jumps
}

// entering is the part that queues incoming packets. As for Chain, it excludes the loopback
// interface, because packets that arrive there have passed OUTPUT. A packet that is already
// untracked has been here before: with a VRF, PREROUTING runs twice.
func (d Data) entering() part {
	call, seen := d.Marks()
	return part{
		table: "raw",
		rules: []string{
			fmt.Sprintf("-A %s -m mark --mark 0x%[2]x/0x%[2]x -j CT --notrack", DataChain, call),
			fmt.Sprintf("-A %s %s -j MARK --set-xmark 0x0/0x%x", DataChain, untracked, call|seen),
			fmt.Sprintf("-A %s %s -j ACCEPT", DataChain, untracked),
			d.queueing(seen),
			d.unmarking(seen),
		},
		jumps: append(first("PREROUTING", "! -i lo"), first("OUTPUT", "")...),
	}
}

// accepting is the part that lets calls' packets through the firewall.
var accepting = part{
	table: "filter",
	rules: []string{"-A " + DataChain + " -j ACCEPT"},
	jumps: slices.Concat(first("FORWARD", untracked), first("INPUT", untracked), first("OUTPUT", untracked)),
}

// leaving is the part that queues packets on their way out, or to the gateway itself.
// Packets over the loopback interface leave by POSTROUTING.
func (d Data) leaving() part {
	_, seen := d.Marks()
	return part{
		table: marker,
		rules: []string{d.queueing(seen), d.unmarking(seen)},
		jumps: append(first("POSTROUTING", untracked), first("INPUT", "! -i lo "+untracked)...),
	}
}

// queueing is the rule that queues packets that the daemon has not seen.
func (d Data) queueing(seen uint32) string {
	target := fmt.Sprintf("--queue-num %d", d.Queue)
	if d.Queues > 1 {
		target = fmt.Sprintf("--queue-balance %d:%d", d.Queue, int(d.Queue)+d.Queues-1)
	}
	if d.Bypass {
		target += " --queue-bypass"
	}
	if d.ByCPU && d.Queues > 1 {
		target += " --queue-cpu-fanout"
	}
	return fmt.Sprintf("-A %s -m mark ! --mark 0x%[2]x/0x%[2]x -j NFQUEUE %s", DataChain, seen, target)
}

func (d Data) unmarking(seen uint32) string {
	return fmt.Sprintf("-A %s -j MARK --set-xmark 0x0/0x%x", DataChain, seen)
}

// dataTables are the tables of the data path's rules, in the order of Data.parts.
var dataTables = []string{marker, "filter", "raw"}

// loadText returns the transactions that load d's rules, replacing those that are loaded.
// current is, by table, what "iptables -S" printed.
func (d Data) loadText(current map[string]string) string {
	return loadParts(DataChain, d.parts(), current)
}

// loadParts is loadText for the rules in any chain that tables share.
func loadParts(chain string, parts []part, current map[string]string) string {
	var b strings.Builder
	for _, p := range parts {
		lines := removalOf(current[p.table], chain)
		if p.table == marker || len(p.rules) > 0 {
			lines = append(lines, "-N "+chain)
		}
		if len(lines) > 0 {
			b.WriteString(transaction(p.table, lines, p.rules, p.jumps))
		}
	}
	return b.String()
}

// unloadParts returns the transactions that remove the rules in such a chain, in the
// reverse order of loading, "" if there are none.
func unloadParts(chain string, tables []string, current map[string]string) string {
	var b strings.Builder
	for _, table := range slices.Backward(tables) {
		if lines := removalOf(current[table], chain); len(lines) > 0 {
			b.WriteString(transaction(table, lines))
		}
	}
	return b.String()
}

// declared reports whether a listing shows a chain.
func declared(chain, current string) bool {
	for _, r := range parse(current) {
		if r.declares(chain) {
			return true
		}
	}
	return false
}

package rules

import (
	"fmt"
	"strings"
)

// DataChain is the chain of our own, in tables raw, mangle and filter, of the data path
// in which GRE visits the daemon. As with Chain, all rules in it and all jumps to it are
// ours.
const DataChain = "PPTPALG-GRE"

// DefaultMark and DefaultLabel are a bit of the packet mark and a connection label that
// others seldom use.
const (
	DefaultMark  = 0x40000000
	DefaultLabel = 119
)

// maxLabel is the last bit of a connection's labels (XT_CONNLABEL_MAXBIT).
const maxLabel = 127

// Data says which queues the calls' GRE packets go to. The zero value has none: the
// kernel translates.
//
//	raw PREROUTING ─► PPTPALG-GRE ─► NFQUEUE ─► daemon: rewrites, and marks what is a call's
//	                                               │
//	mangle PREROUTING, first rule ◄────────────────┘   the mark becomes a label of the
//	      │                                            connection, its other bits the
//	      │                                            connection's mark; it is cleared
//	filter FORWARD, first rule ─► labelled: ACCEPT
//
// A rewritten packet is the first of a connection that conntrack has never seen: it is
// NEW, comes from outside, and a firewall that accepts only what is ESTABLISHED drops it.
// So the daemon marks the packets of living calls, and the rules accept them. The mark
// itself would not do: CONNMARK --restore-mark overwrites it, and policy routing would
// take it for a route's. The label stays with the connection, and touches nothing.
//
// The mark's other bits are those of the call's control connection, so that routing by
// connection mark keeps both on one way. A mark that a call's packet had before table raw
// is lost.
type Data struct {
	Queue  uint16 // the first queue
	Queues int    // their number, Queue and those after it; 0 is no rule at all
	// ByCPU gives each processor its queue instead of each pair of addresses. All
	// packets of one server to one public address are one pair. Which processor a
	// packet comes to is the network card's choice, or that of RPS, whose hash knows
	// the Call ID.
	ByCPU bool
	// Bypass lets packets go on as they are while no daemon reads the queue, instead of
	// dropping them. What goes on untranslated is for the gateway itself, which answers
	// that it does not know the protocol; some servers end the call for it.
	Bypass bool
	// Mark is the mark by which the daemon tells a call's packets, all bits of it set; 0
	// adds no rules that accept them. Set it where the firewall's FORWARD chain does not
	// let GRE pass.
	Mark  uint32
	Label uint8 // connection label for them, 0 to 127; used only with a Mark
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
	case d.Label > maxLabel:
		return fmt.Errorf("validate data label: %d is above %d", d.Label, maxLabel)
	}
	return nil
}

// part is what one table has of the data path's rules.
type part struct {
	table        string
	rules, jumps []string
}

// marker is the table that has DataChain whenever rules of the data path may be loaded:
// the first to get it, and the last to lose it.
const marker = "mangle"

// parts returns the rules in the order in which they come into force: GRE is queued when
// all is ready for it.
func (d Data) parts() []part {
	if d.Mark == 0 {
		return []part{{table: marker}, {table: "filter"}, d.queueing()}
	}
	marked := fmt.Sprintf("-A %s -p gre -m mark --mark 0x%x/0x%x ", DataChain, d.Mark, d.Mark)
	return []part{
		{
			table: marker,
			rules: []string{
				marked + fmt.Sprintf("-m connlabel --label %d --set", d.Label),
				marked + fmt.Sprintf("-m mark ! --mark 0x0/0x%[1]x -j CONNMARK --save-mark --nfmask 0x%[1]x --ctmask 0x%[1]x", ^d.Mark),
				marked + "-j MARK --set-xmark 0x0/0xffffffff",
			},
			jumps: []string{"-I PREROUTING -p gre -j " + DataChain, "-I OUTPUT -p gre -j " + DataChain},
		}, {
			table: "filter",
			rules: []string{fmt.Sprintf("-A %s -p gre -m connlabel --label %d -j ACCEPT", DataChain, d.Label)},
			jumps: []string{"-I FORWARD -p gre -j " + DataChain},
		},
		d.queueing(),
	}
}

// enhancedGRE is a match of xt_u32 on PPTP's GRE alone: from the IP header's length to
// the GRE header, there version 1 and protocol type 0x880b (RFC 2637 section 4.1). Other
// tunnels never see the daemon.
const enhancedGRE = `-m u32 --u32 "0>>22&0x3c@0&0x7ffff=0x1880b"`

// queueing is the part that queues. As for Chain, the loopback interface is left out
// because what arrives there has passed OUTPUT.
func (d Data) queueing() part {
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
	return part{
		table: "raw",
		rules: []string{"-A " + DataChain + " -p gre " + enhancedGRE + " -j NFQUEUE " + target},
		jumps: []string{"-A PREROUTING ! -i lo -p gre -j " + DataChain, "-A OUTPUT -p gre -j " + DataChain},
	}
}

// dataTables are the tables of the data path's rules, in the order of Data.parts.
var dataTables = []string{marker, "filter", "raw"}

// loadText returns the transactions that put d's rules in force in place of those there
// are. current is, by table, what "iptables -S" printed.
func (d Data) loadText(current map[string]string) string {
	var b strings.Builder
	for _, p := range d.parts() {
		lines := removalOf(current[p.table], DataChain)
		if p.table == marker || len(p.rules) > 0 {
			lines = append(lines, "-N "+DataChain)
		}
		if len(lines) > 0 {
			b.WriteString(transaction(p.table, lines, p.rules, p.jumps))
		}
	}
	return b.String()
}

// unloadDataText returns the transactions that remove the data path's rules, in the
// order opposite to loading, "" if there are none.
func unloadDataText(current map[string]string) string {
	var b strings.Builder
	for i := len(dataTables) - 1; i >= 0; i-- {
		if lines := removalOf(current[dataTables[i]], DataChain); len(lines) > 0 {
			b.WriteString(transaction(dataTables[i], lines))
		}
	}
	return b.String()
}

// hasData reports whether a listing of table mangle shows the data path's chain.
func hasData(current string) bool {
	for _, r := range parse(current) {
		if r.declares(DataChain) {
			return true
		}
	}
	return false
}

// dataLoadedIn reports whether GRE reaches a queue of ours, given a listing of table raw.
func dataLoadedIn(current string) bool {
	filled, jump := false, false
	for _, r := range parse(current) {
		filled = filled || r.appendsTo(DataChain)
		jump = jump || r.jumpsTo(DataChain) && r.words[1] == "PREROUTING"
	}
	return filled && jump
}

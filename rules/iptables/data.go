package iptables

import (
	"fmt"
	"slices"
	"strings"

	"pptpalg/rules"
)

// DataChain is our own chain of data path queue, in tables raw, mangle and filter. As with
// Chain, all rules in it and all jumps to it are ours.
const DataChain = "PPTPALG-GRE"

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
func parts(d rules.Data, vrfs ...VRF) []part {
	parts := []part{leaving(d), {table: "filter"}, entering(d, vrfs)}
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

// enteringTable has the rules of entering.
const enteringTable = "raw"

// entering is the part that queues incoming packets. As for Chain, it excludes the loopback
// interface, because packets that arrive there have passed OUTPUT. A packet that is already
// untracked has been here before: with a VRF, PREROUTING runs twice. Others of a VRF are not queued
// again.
func entering(d rules.Data, vrfs []VRF) part {
	call, seen := d.Marks()
	return part{
		table: enteringTable,
		rules: slices.Concat([]string{
			fmt.Sprintf("-A %s -m mark --mark 0x%[2]x/0x%[2]x -j CT --notrack", DataChain, call),
			fmt.Sprintf("-A %s %s -j MARK --set-xmark 0x0/0x%x", DataChain, untracked, call|seen),
			fmt.Sprintf("-A %s %s -j ACCEPT", DataChain, untracked),
		}, returning(DataChain, vrfs), []string{
			queueing(d, seen),
			unmarking(d, seen),
		}),
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
func leaving(d rules.Data) part {
	_, seen := d.Marks()
	return part{
		table: marker,
		rules: []string{queueing(d, seen), unmarking(d, seen)},
		jumps: append(first("POSTROUTING", untracked), first("INPUT", "! -i lo "+untracked)...),
	}
}

// queueing is the rule that queues packets that the daemon has not seen.
func queueing(d rules.Data, seen uint32) string {
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

func unmarking(d rules.Data, seen uint32) string {
	return fmt.Sprintf("-A %s -j MARK --set-xmark 0x0/0x%x", DataChain, seen)
}

// dataTables are the tables of the data path's rules, in the order of Data.parts.
var dataTables = []string{marker, "filter", enteringTable}

// loadText returns the transactions that load d's rules, replacing those that are loaded.
// Each VRF has one. current is, by table, what "iptables -S" printed.
func loadText(d rules.Data, current map[string]string, vrfs ...VRF) string {
	return loadParts(DataChain, parts(d, vrfs...), current)
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

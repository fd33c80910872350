package iptables

import (
	"fmt"

	"pptpalg/rules"
)

// ResetChain is our own chain, in tables mangle and filter, by which the gateway answers
// segments with a RST. As with Chain, all rules in it and all jumps to it are ours.
const ResetChain = "PPTPALG-RESET"

// resetTables are the tables of the rules for segments that are answered with a RST. The
// chain in marker is empty: it says that there is one in filter, so that filter is read
// only then.
var resetTables = []string{marker, "filter"}

// resetParts returns the rules that answer a segment with a RST. The daemon marks the
// segment, and the kernel makes a RST that fits it. The rules come first in FORWARD,
// because the segment belongs to no connection that conntrack knows, and a firewall may
// treat it as INVALID or NEW.
func resetParts(c rules.Config) []part {
	return []part{{table: marker}, {
		table: "filter",
		rules: []string{fmt.Sprintf("-A %s -p tcp -m mark --mark 0x%x/0x%[2]x -j REJECT --reject-with tcp-reset", ResetChain, c.ResetMark)},
		jumps: []string{fmt.Sprintf("-I FORWARD -p tcp -m mark --mark 0x%x/0x%[1]x -j %s", c.ResetMark, ResetChain)},
	}}
}

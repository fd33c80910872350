package rules

import (
	"errors"
	"fmt"
)

// ResetChain is our own chain, in tables mangle and filter, by which the gateway answers
// segments with a RST. As with Chain, all rules in it and all jumps to it are ours.
const ResetChain = "PPTPALG-RESET"

// DefaultResetMark is a bit of the packet mark that others seldom use.
const DefaultResetMark = 0x10000000

// resetTables are the tables of the rules for segments that are answered with a RST. The
// chain in marker is empty: it says that there is one in filter, so that filter is read
// only then.
var resetTables = []string{marker, "filter"}

// resetParts returns the rules that answer a segment with a RST. The daemon marks the
// segment, and the kernel makes a RST that fits it. The rules come first in FORWARD,
// because the segment belongs to no connection that conntrack knows, and a firewall may
// treat it as INVALID or NEW.
func (c Config) resetParts() []part {
	return []part{{table: marker}, {
		table: "filter",
		rules: []string{fmt.Sprintf("-A %s -p tcp -m mark --mark 0x%x/0x%[2]x -j REJECT --reject-with tcp-reset", ResetChain, c.ResetMark)},
		jumps: []string{fmt.Sprintf("-I FORWARD -p tcp -m mark --mark 0x%x/0x%[1]x -j %s", c.ResetMark, ResetChain)},
	}}
}

// validateReset returns an error if one bit of a mark would have two meanings.
func (c Config) validateReset() error {
	if c.ResetMark&c.Bypass.Mark != 0 {
		return errors.New("validate reset mark: it shares bits with the mark of bypass, which CONNMARK --restore-mark brings to packets")
	}
	return nil
}

// nftReset returns the chain that answers segments with a RST, if that is wanted.
func (c Config) nftReset() []nftChain {
	if c.ResetMark == 0 {
		return nil
	}
	return []nftChain{{"lost", "# The daemon marks segments of connections that cannot go on.",
		"filter hook forward priority filter - 1",
		[]string{fmt.Sprintf("meta l4proto tcp meta mark & 0x%[1]x == 0x%[1]x reject with tcp reset", c.ResetMark)}}}
}

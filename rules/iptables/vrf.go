package iptables

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/bpf"
)

// A packet that comes in over a VRF passes PREROUTING twice: with the interface that it came in
// by, and then with the VRF's device. The kernel frees what is queued the second time
// (vrf_rcv_nfhook in drivers/net/vrf.c). iptables cannot ask for the kind of a device, so each
// VRF has a rule in each chain that queues there, before the first that does. VRFs come and go
// while the rules are loaded, so Present does not count these.

// vrfNote comes first where rules are printed, if there is a VRF.
const vrfNote = "# Each existing VRF has a rule: print and load the rules again when a VRF is added, removed or renamed.\n"

// returning returns a chain's rules about VRFs.
func returning(chain string, vrfs []VRF) []string {
	var lines []string
	for _, v := range vrfs {
		lines = append(lines, fmt.Sprintf("-A %s %s -j RETURN", chain, v.match()))
	}
	return lines
}

// byNumber is what a match on a device's number begins with: four instructions, and the first
// one loads it.
const byNumber = "-m bpf --bytecode 4,32 0 0 4294963208,"

// match matches what comes in by the device, by its name if that can be written.
func (v VRF) match() string {
	if writable(v.Name) {
		return "-i " + v.Name
	}
	return fmt.Sprintf(`-m bpf --bytecode "%s"`, bytecode([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: v.Index, SkipFalse: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	}))
}

// writable reports whether iptables takes a device's name for itself, where it is read and where
// it is listed: + at the end stands for any end, - begins an option, and ! is a word of its own.
// It lists names without quotes.
func writable(name string) bool {
	return !strings.HasPrefix(name, "-") && !strings.HasPrefix(name, "!") && !strings.HasSuffix(name, "+") &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\`, r) })
}

// aboutVRF reports whether the rule is one of a chain's about VRFs. Of our other rules only
// fromLoopback returns.
func (r rule) aboutVRF(chain string) bool {
	if !r.appendsTo(chain) || r.text == fromLoopback {
		return false
	}
	match, returns := strings.CutSuffix(strings.Join(r.words[2:], " "), " -j RETURN")
	named := len(r.words) == 6 && r.words[2] == "-i"
	return returns && (named || strings.HasPrefix(match, byNumber))
}

// vrfText returns the transaction that brings a chain's rules about VRFs up to date, or "" if
// they are, or if the chain has no rule that queues. current is what "iptables -S" printed of the
// table. It fails as a whole where a rule that it deletes, or the chain, is gone.
func vrfText(table, chain, current string, vrfs []VRF) string {
	wanted := returning(chain, vrfs)
	var had, lines []string
	before, queues := 0, false
	for _, r := range parse(current) {
		switch {
		case !r.appendsTo(chain):
		case r.aboutVRF(chain):
			had = append(had, r.text)
			lines = append(lines, "-D"+strings.TrimPrefix(r.text, "-A"))
		case slices.Contains(r.words, "NFQUEUE"):
			queues = true
		case !queues:
			before++
		}
	}
	if !queues || slices.Equal(slices.Sorted(slices.Values(had)), slices.Sorted(slices.Values(wanted))) {
		return ""
	}
	for i, line := range wanted {
		rest := strings.TrimPrefix(line, "-A "+chain)
		lines = append(lines, fmt.Sprintf("-I %s %d%s", chain, before+1+i, rest))
	}
	return transaction(table, lines)
}

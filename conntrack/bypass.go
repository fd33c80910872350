package conntrack

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bypass marks connections that need no queueing, by a label or mark of their conntrack
// entry: neither their data nor their end is queued. The daemon sets it; no rule does. The
// zero value is none: all connections are queued.
//
// Nothing else uses the label, but only entries that are younger than the first rule about
// a label have room for one. Every entry has room for a mark. But the mark is the
// administrator's: CONNMARK --save-mark without a mask removes the bits, and --restore-mark
// copies them to packets, where policy routing sees them.
type Bypass struct {
	Mark     uint32 // bits of the connection mark, all of them; 0 for none
	Label    uint8  // connection label, 0 to 127; used only if Labelled, and there is no Mark
	Labelled bool
}

// The text form of a Bypass: none, label:118, mark:0x20000000.
const (
	bypassNone  = "none"
	bypassLabel = "label:"
	bypassMark  = "mark:"
)

func (b Bypass) String() string {
	switch {
	case b.Mark != 0:
		return fmt.Sprintf("%s0x%x", bypassMark, b.Mark)
	case b.Labelled:
		return fmt.Sprintf("%s%d", bypassLabel, b.Label)
	}
	return bypassNone
}

// ParseBypass reads what String writes: "none", "label:" with a number from 0 to 127, or
// "mark:" with bits that are not 0 (0x20000000, decimal, octal with 0, binary with 0b).
func ParseBypass(s string) (Bypass, error) {
	label, labelled := strings.CutPrefix(s, bypassLabel)
	mark, marked := strings.CutPrefix(s, bypassMark)
	switch {
	case s == bypassNone:
		return Bypass{}, nil
	case labelled:
		n, err := strconv.ParseUint(label, 10, 8)
		if err != nil || n > maxLabel {
			return Bypass{}, fmt.Errorf("parse bypass %q: give a label from 0 to %d", s, maxLabel)
		}
		return Bypass{Label: uint8(n), Labelled: true}, nil
	case marked:
		n, err := strconv.ParseUint(mark, 0, 32)
		if err != nil || n == 0 {
			return Bypass{}, fmt.Errorf("parse bypass %q: give bits of a mark, 32 at most and one at least", s)
		}
		return Bypass{Mark: uint32(n)}, nil
	}
	return Bypass{}, fmt.Errorf("parse bypass %q: give none, label:NUMBER or mark:BITS", s)
}

// Validate returns an error where both a mark and a label are given, or none that can be.
func (b Bypass) Validate() error {
	switch {
	case b.Mark != 0 && b.Labelled:
		return errors.New("validate bypass: both a mark and a label given")
	case b.Labelled && b.Label > maxLabel:
		return fmt.Errorf("validate bypass: label %d is above %d", b.Label, maxLabel)
	}
	return nil
}

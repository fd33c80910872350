package rules

import (
	"errors"
	"fmt"
	"slices"

	"pptpalg/conntrack"
)

// DefaultBypassLabel is a connection label that others seldom use.
const DefaultBypassLabel = 118

// DefaultResetMark is a bit of the packet mark that others seldom use.
const DefaultResetMark = 0x10000000

// OptionMPTCP is the kind of TCP option that asks for Multipath TCP (RFC 8684 section 3).
// The daemon removes it, because a stream over several subflows cannot be read on one.
const OptionMPTCP = 30

// Config says which control connections go to which queue.
type Config struct {
	// Queue is the NFQUEUE number, 0 to 65535.
	Queue uint16
	// Ports are the TCP ports to which control connections are opened, as the
	// client sees them (before DNAT). At least one; PPTP's own is 1723.
	Ports []uint16
	// AllSegments queues pure ACKs and bare SYNs too, for kernels or iptables without xt_bpf.
	AllSegments bool
	// Bypass marks connections that need no queueing.
	Bypass conntrack.Bypass
	// Data says to which queues GRE goes, if the daemon translates it.
	Data Data
	// ResetMark is the mark, all bits of it set, of segments that are answered with a RST;
	// 0 adds no such rule.
	ResetMark uint32
}

// Validate returns an error that names the first field without a usable value.
func (c Config) Validate() error {
	if len(c.Ports) == 0 {
		return errors.New("validate ports: none given")
	}
	for i, port := range c.Ports {
		if port == 0 {
			return errors.New("validate ports: 0 is not a port")
		}
		if slices.Contains(c.Ports[:i], port) {
			return fmt.Errorf("validate ports: %d given twice", port)
		}
	}
	if err := c.Bypass.Validate(); err != nil {
		return err
	}
	if err := c.validateReset(); err != nil {
		return err
	}
	return c.Data.validate(c.Queue)
}

// Lesser returns what to load if the kernel, or a program, lacks something that c has, best
// first: all connections queued, all segments queued, and both.
func (c Config) Lesser() []Config {
	var found []Config
	if c.Bypass != (conntrack.Bypass{}) {
		without := c
		without.Bypass = conntrack.Bypass{}
		found = append(found, without)
	}
	if !c.AllSegments {
		for _, with := range append([]Config{c}, found...) {
			with.AllSegments = true
			found = append(found, with)
		}
	}
	return found
}

// validateReset returns an error if one bit of a mark would have two meanings.
func (c Config) validateReset() error {
	if c.ResetMark&c.Bypass.Mark != 0 {
		return errors.New("validate reset mark: it shares bits with the mark of bypass, which CONNMARK --restore-mark copies to packets")
	}
	return nil
}

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
	// TooBig queues, some times a second, what routers say of a call's packet that is larger than
	// the next MTU and must not be fragmented (RFC 1191), where the kernel translates calls: the
	// daemon counts it. With Data these errors are queued anyway.
	TooBig bool
}

// TooBigRate is how many errors of Config.TooBig a second are queued, but for a few that come
// together.
const TooBigRate = 10

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

// ByKernel returns c for calls that the kernel translates: without Data, and with TooBig.
func (c Config) ByKernel() Config {
	c.Data, c.TooBig = Data{}, true
	return c
}

// Lesser returns what to load if the kernel, or a program, lacks something that c has, best
// first: the errors of TooBig not queued, all connections queued, all segments queued, and any
// of these together.
func (c Config) Lesser() []Config {
	all := []Config{c}
	lessen := func(has bool, without func(*Config)) {
		for _, l := range slices.Clone(all) {
			if has {
				without(&l)
				all = append(all, l)
			}
		}
	}
	lessen(c.TooBig, func(c *Config) { c.TooBig = false })
	lessen(c.Bypass != (conntrack.Bypass{}), func(c *Config) { c.Bypass = conntrack.Bypass{} })
	lessen(!c.AllSegments, func(c *Config) { c.AllSegments = true })
	return all[1:]
}

// validateReset returns an error if one bit of a mark would have two meanings.
func (c Config) validateReset() error {
	if c.ResetMark&c.Bypass.Mark != 0 {
		return errors.New("validate reset mark: it shares bits with the mark of bypass, which CONNMARK --restore-mark copies to packets")
	}
	return nil
}

package conntrack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// probeTimeout is the life of a probe's entries in seconds, in case the process ends before
// it has deleted them.
const probeTimeout = 5

// Probe finds out whether the kernel accepts the two entries of a call. It creates those of
// a call between documentation addresses (RFC 5737), in the default zone, reads them back
// and deletes them. The error says what the kernel refused, or what it has instead. When
// Probe returns, its entries are gone; it touches no others.
func (c *Conn) Probe() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for range tries {
		if err = c.probeCall(); !errors.Is(err, ErrTaken) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("probe conntrack with the entries of a call: %w", err)
	}
	return nil
}

// probeCall tries the flows of a call that does not exist, with random keys.
func (c *Conn) probeCall() (err error) {
	for _, f := range probeFlows(pptp.CallID(1+rand.N(0xfffe)), pptp.CallID(rand.N(0xffff))) {
		id, flowErr := c.probeFlow(f)
		if id != nil {
			defer func() { err = errors.Join(err, c.unprobe(f, *id)) }()
		}
		if flowErr != nil {
			return fmt.Errorf("entry for %v: %w", f, flowErr)
		}
	}
	return nil
}

// probeFlow creates a flow's entry and reads it back. The ID is that of the entry that it
// created, 0 if that is not known; nil if it created none.
func (c *Conn) probeFlow(f calls.Flow) (id *uint32, err error) {
	e := flowEntry(f)
	e.timeout = probeTimeout
	created := c.exchange(createRequest(e), nil, nil)
	if created != nil && !errors.Is(created, unix.EEXIST) {
		return nil, fmt.Errorf("create: %w", created)
	}
	there, err := c.get(gre(enters(f)), f.Zone)
	switch {
	case created == nil && err != nil:
		return new(uint32), fmt.Errorf("read back: %w", err)
	case created != nil && (err != nil || !there.translates(f) || there.timeout > probeTimeout):
		return nil, ErrTaken
	case !there.translates(f): // of a repeated request, the first may have made it
		return &there.id, fmt.Errorf("the kernel has original %v, reply %v, status %#x in its place", there.orig.Tuple, there.reply.Tuple, there.status)
	}
	return &there.id, nil
}

// unprobe deletes an entry that probeFlow made.
func (c *Conn) unprobe(f calls.Flow, id uint32) error {
	if err := c.remove(gre(enters(f)), f.Zone, id); err != nil {
		return fmt.Errorf("delete the entry for %v: %w", f, err)
	}
	return nil
}

// probeFlows returns the flows of a call, given both ends' Call IDs, whose client is
// translated, and its Call ID too.
func probeFlows(own, peer pptp.CallID) [2]calls.Flow {
	client, public := netip.AddrFrom4([4]byte{198, 51, 100, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 1})
	server := netip.AddrFrom4([4]byte{203, 0, 113, 1})
	return [2]calls.Flow{
		{Src: server, Dst: public, Key: own + 1, NewSrc: server, NewDst: client, NewKey: own},
		{Src: client, Dst: server, Key: peer + 1, NewSrc: public, NewDst: server, NewKey: peer + 1},
	}
}

package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"pptpalg/alg/calls"
)

// homeless is for how long an address may be gone, as while a line is dialled anew, until
// the connections behind it are given up.
const homeless = time.Minute

// homeMemory is for how long it is remembered that an address was there.
const homeMemory = time.Hour

// homes are the addresses of the gateway's interfaces. An address that never was there has
// no part in this: where NAT gives one that is only routed here, that it is not there
// says nothing.
type homes struct {
	list  func() ([]netip.Addr, error)
	there map[netip.Addr]time.Time // when each was last there
	now   time.Time                // of the last look
}

// interfaceAddrs returns the IPv4 addresses of the calling thread's network namespace, those
// included of interfaces that are down.
func interfaceAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of interfaces: %w", err)
	}
	var found []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			found = append(found, p.Addr())
		}
	}
	return found, nil
}

// look takes note of the addresses that are there.
func (h *homes) look(now time.Time) error {
	all, err := h.list()
	if err != nil {
		return err
	}
	if h.there == nil {
		h.there = make(map[netip.Addr]time.Time)
	}
	for _, a := range all {
		h.there[a] = now
	}
	for a, at := range h.there {
		if now.Sub(at) > homeMemory {
			delete(h.there, a)
		}
	}
	h.now = now
	return nil
}

// own has records say which ends are the gateway itself.
func (h *homes) own(all []calls.Record) {
	for i := range all {
		for s := range all[i].Local {
			_, all[i].Local[s] = h.there[all[i].Connection.Endpoint(calls.Side(s)).Address]
		}
	}
}

// away reports whether an address that NAT gives to an end of the connection is gone.
func (h *homes) away(c calls.Connection) bool { return h.gone(c) > 0 }

// left reports whether it has been gone for so long that it is not waited for.
func (h *homes) left(c calls.Connection) bool { return h.gone(c) > homeless }

// gone is for how long it has been gone.
func (h *homes) gone(c calls.Connection) (longest time.Duration) {
	for _, s := range []calls.Side{calls.Initiator, calls.Responder} {
		if e := c.Endpoint(s); e.Translated() {
			if at, known := h.there[e.Public]; known {
				longest = max(longest, h.now.Sub(at))
			}
		}
	}
	return longest
}

// look has the addresses looked at. Where the kernel does not tell, they count as they were.
func (g *Gateway) look(now time.Time) {
	if err := g.homes.look(now); err != nil {
		g.limits.sometimes("addresses", func() { g.log.Warn("addresses are not known", "err", err) })
	}
}

package explain

import (
	"fmt"
	"slices"
	"time"

	"pptpalg/alg/calls"
)

// The causes of this file are about the ways that packets take: routes, addresses, MTUs.

// lostAnswer tells of a handshake that the initiator does not end although it was answered.
func (j *judge) lostAnswer(c *calls.Connection) {
	from := c.Original.Src.Addr()
	text := fmt.Sprintf("%v has answered %v, and TCP's handshake went no further: the answer does not reach the client, or the client's next packet does not come here", c.Original.Dst, from)
	if j.Inside.Name != "" && j.Inside.Name == j.Outside.Name {
		text = fmt.Sprintf("%v has answered, and the answer does not reach %v: this gateway's route to it leads over %s, as the one to the server does", c.Original.Dst, from, j.Inside.Name)
	}
	j.add("answer_lost", text, fmt.Sprintf("check that \"ip route get %v\" names the interface where the client is, and that all packets of the client come through this gateway; \"pptpalg check\", as root, shows what the firewall here drops", from))
}

// strangeAddress tells of a SYN that left with an address which is not this gateway's.
func (j *judge) strangeAddress(c *calls.Connection) {
	e := c.Endpoint(calls.Initiator)
	if !e.Translated() || j.Homes == nil || slices.Contains(j.Homes, e.Public) {
		return
	}
	j.add("public_elsewhere", fmt.Sprintf("the SYN left for %v with the source address %v, which is on no interface of this gateway, and nothing came back", c.Original.Dst, e.Public),
		fmt.Sprintf("correct the rule that translates the source (SNAT), give %v to the outside interface, or have it routed to this gateway", e.Public))
}

// misrouted looks for packets that are dropped for the way back to where they come from, if the
// client has no open connection.
func (j *judge) misrouted() {
	open := func(c calls.Connection) bool { return !c.Closing }
	if !slices.ContainsFunc(j.Connections, open) {
		j.dropped()
	}
}

// dropped tells of a route to the client that leads out, if packets are dropped for such a thing.
// It is for clients of which nothing comes.
func (j *judge) dropped() {
	if j.Astray.Packets > 0 && j.Now.Sub(j.Astray.Last) < recently {
		j.wrongRoute(fmt.Sprintf(", so the kernel drops what comes from it on another interface (rp_filter; %d packets of all hosts since the daemon was started, the last one at %s)", j.Astray.Packets, j.ago(j.Astray.Last)))
	}
}

// wrongRoute tells of a route to the client that leads out.
func (j *judge) wrongRoute(more string) {
	if j.Inside.Name == "" || j.Inside.Name != j.Outside.Name {
		return
	}
	j.add("wrong_route", fmt.Sprintf("this gateway's route to %v leads over %s, where the servers are%s", j.Client, j.Inside.Name, more),
		fmt.Sprintf("if it is inside, correct the route that \"ip route get %v\" shows; if it is not an inside address, give the one that the client has inside", j.Client))
}

// tooBigLately is for how long packets that were too large count as a cause.
const tooBigLately = 5 * time.Minute

// greOverhead is what a PPTP packet has around what the tunnel carries: the outer IP header, the
// GRE header with both numbers, PPP's protocol field and MPPE's header.
const greOverhead = 20 + 16 + 2 + 4

// tooBig tells of packets of the call that routers, or an end, have found larger than an MTU: small
// ones pass, and large ones do not. Of two ways it tells the one where that was last.
func (l look) tooBig() {
	end, b := l.peer(l.call).Address, l.call.ToPeer.TooBig
	if to := l.call.ToClient.TooBig; to.Last.After(b.Last) {
		end, b = l.Client, to
	}
	if b.Errors == 0 || l.Now.Sub(b.Last) > tooBigLately {
		return
	}
	mtu := "it does not tell the MTU"
	if b.MTU > 0 {
		mtu = fmt.Sprintf("the MTU there is %d bytes", b.MTU)
	}
	l.add("mtu", fmt.Sprintf("%s has packets to %v that are larger than an MTU on their way and must not be fragmented (DF): %v has sent the ICMP error \"fragmentation needed\" (heard %s, the last time at %s, about a packet of %d bytes; %s)",
		l.name, end, b.Router, times(b.Errors), l.ago(b.Last), b.Size, mtu), smallerMTU(b.MTU, "that MTU"))
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// smallerMTU is what to do about packets that are larger than an MTU, 0 if that is not known.
func smallerMTU(mtu int, than string) string {
	advice := "set the MTU and MRU of PPP lower at both ends"
	if mtu > greOverhead {
		advice = fmt.Sprintf("set the MTU and MRU of PPP to %d or less at both ends (%d bytes less than %s)", mtu-greOverhead, greOverhead, than)
	}
	return advice + ", and let ICMP errors pass: as it is, small packets get through and large ones are lost"
}

// tooBig tells of packets that were larger than an MTU of this gateway.
func (j *judge) tooBig() {
	b := &j.TooBig
	if b.Packets == 0 || j.Now.Sub(b.Last) > tooBigLately {
		return
	}
	way, least := "", 0
	for _, d := range []Device{j.Outside, j.Inside} {
		if d.Name != "" && (least == 0 || d.MTU < least) {
			way, least = fmt.Sprintf(": their route goes over %s, whose MTU is %d bytes", d.Name, d.MTU), d.MTU
		}
	}
	j.add("mtu", fmt.Sprintf("packets are larger than the MTU and must not be fragmented (DF), so this gateway dropped %d of them, the last one at %s, with an ICMP error \"fragmentation needed\" for each (the kernel does not say whose packets they were)%s", b.Packets, j.ago(b.Last), way),
		smallerMTU(least, "the interface"))
}

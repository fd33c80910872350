package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The causes of this file are about the GRE of calls that are up.

const greAdvice = `IP protocol 47 is not TCP or UDP: a "port forward" does not carry it`

// fresh is for how long the GRE of a new call may keep people waiting.
const fresh = 10 * time.Second

// traffic looks at the GRE of the calls that are up, the latest first.
func (j *judge) traffic() {
	up := j.established()
	j.several = len(up) > 1
	for _, c := range slices.Backward(up) {
		if !j.look(&c).trouble() {
			j.sound = append(j.sound, c)
		}
	}
}

// works tells of calls with which nothing is wrong.
func (j *judge) works() {
	if len(j.sound) == 0 {
		return
	}
	for i := range j.sound {
		j.look(&j.sound[i]).tooBig()
	}
	j.tooBig()
	j.add("working", j.soundness(), `if the tunnel carries nothing, check that FORWARD lets GRE pass (run "pptpalg check" as root), then PPP: authentication, MPPE and MTU on both ends`)
}

// soundness names the calls with which nothing is wrong.
func (j *judge) soundness() string {
	c := &j.sound[0]
	switch {
	case len(j.sound) > 1:
		return fmt.Sprintf("%d calls are up, and GRE arrives from both ends of each and is translated", len(j.sound))
	case j.several:
		return fmt.Sprintf("call %d to %v is up, and GRE arrives from both its ends and is translated", c.Number, j.peer(c).Address)
	}
	return "the call is up, and GRE arrives from both ends and is translated"
}

// look is a look at one call.
type look struct {
	*judge
	call *Call
	name string // of the call in sentences
}

// look looks at a call that is up.
func (j *judge) look(c *Call) look {
	l := look{j, c, "the call"}
	if j.several {
		l.name = fmt.Sprintf("call %d to %v", c.Number, j.peer(c).Address)
	}
	return l
}

// trouble tells what is wrong with the call, and reports whether anything is.
func (l look) trouble() bool {
	c := l.call
	in, out, before := c.ToClient, c.ToPeer, len(l.causes)
	young := l.Now.Sub(c.Since) < fresh
	l.strays(func(s Stray) bool { return !s.Shared || !young })
	uncounted := in.Present && out.Present && (!in.Traffic.Counted || !out.Traffic.Counted)
	switch {
	case uncounted:
		l.tooBig()
		l.add("not_counted", l.name+" is up and both its GRE flows are translated; their packets are not counted",
			"sysctl -w net.netfilter.nf_conntrack_acct=1, dial again, and ask again")
	case in.none() && out.none():
		l.add("no_gre", fmt.Sprintf("%s has been up for %s, but no GRE has come from either end", l.name, Age(l.Now.Sub(c.Since))),
			"check that the client's own firewall and the network before this gateway let GRE pass, then the same for the server. "+greAdvice)
	case in.none() && out.Traffic.Packets > 0:
		l.nothingFromPeer()
	case out.none() && in.Traffic.Packets > 0:
		l.dropped()
		l.nothingFromClient()
	}
	l.stuck()
	if l.OverQueue && l.Unmatched > 0 && in.Traffic.Packets == 0 {
		l.add("gre_without_flow", fmt.Sprintf("GRE has arrived that belongs to no call (%d packets, for all clients)", l.Unmatched),
			"the other end sends with a Call ID, or from an address, that no call has: see its log")
	}
	if !in.Present || !out.Present {
		l.add("flow_missing", "the data path lacks a flow of "+l.name+": the daemon creates it again within seconds, unless the kernel refuses it",
			"see pptpalg_conntrack_errors_total and the daemon's log, and find out what else empties the conntrack table")
	}
	l.strays(func(Stray) bool { return true })
	if !uncounted && len(l.causes) > before {
		l.tooBig()
	}
	return len(l.causes) > before || in.none() || out.none() || !c.Stuck.Since.IsZero() && c.Stuck.Carried
}

// Which end is silent says where GRE is lost; which one is inside, whose network that is.
const (
	farSide = "GRE is blocked beyond this gateway, or by this gateway's own rules on the way out"
	ownSide = "GRE is blocked on its side, or by a rule before conntrack"

	farAdvice = "ask the provider and the server's operator to let GRE pass; check that FORWARD accepts it here. " + greAdvice
	ownAdvice = "check the client's own firewall, the network before this gateway, and the rules in table raw here. " + greAdvice
)

func (l look) nothingFromPeer() {
	where, advice := farSide, farAdvice
	if l.outside(l.call) {
		where, advice = ownSide, strings.Replace(ownAdvice, "client's", "server's", 1)
	}
	l.add("no_gre_from_server", fmt.Sprintf("%s is up and %d GRE packets of the client were translated, but none came from the other end: %s", l.name, l.call.ToPeer.Traffic.Packets, where), advice)
}

func (l look) nothingFromClient() {
	where, advice := ownSide, ownAdvice
	if l.outside(l.call) {
		where, advice = farSide, strings.Replace(farAdvice, "server's operator", "client", 1)
	}
	l.add("no_gre_from_client", fmt.Sprintf("%s is up and %d GRE packets came for the client, but none from it: %s", l.name, l.call.ToClient.Traffic.Packets, where), advice)
}

// stuck tells of a call that has carried both ways before.
func (l look) stuck() {
	s := l.call.Stuck
	switch {
	case s.Since.IsZero() || !s.Carried:
	case s.ToClient:
		l.add("no_gre_from_server", fmt.Sprintf("%s is up and has carried traffic both ways, but since %s no GRE has come from the other end, while the client still sends", l.name, l.ago(s.Since)),
			"find out what changed at that time: a firewall here (FORWARD) or at the provider that now drops GRE, or a server that has lost the call. "+greAdvice)
	default:
		l.dropped()
		l.add("no_gre_from_client", fmt.Sprintf("%s is up and has carried traffic both ways, but since %s no GRE has come from the client, while the other end still sends", l.name, l.ago(s.Since)),
			"find out what changed at that time: the client's own firewall, the network before this gateway, a rule in table raw here, or a client that has gone. "+greAdvice)
	}
}

// strays names likely GRE of a silent end for Call IDs that no call has. If several clients share a public address, it
// may be another client's: that explains nothing of a call that has just begun.
func (l look) strays(likely func(Stray) bool) {
	in, out := l.call.ToClient.Traffic.Packets, l.call.ToPeer.Traffic.Packets
	for _, s := range l.Strays {
		if !likely(s) || !(in == 0 && s.From == l.peer(l.call).Address) && !(out == 0 && s.From == l.Client) {
			continue
		}
		packets := ""
		if s.Traffic.Counted {
			packets = fmt.Sprintf(" (%d packets)", s.Traffic.Packets)
		}
		l.add("gre_without_flow", fmt.Sprintf("GRE comes from %v to %v for Call ID %v, which no call has%s", s.From, s.To, s.CallID, packets),
			fmt.Sprintf("%v sends with a Call ID that it was not given, or for a call that has ended, perhaps another client's: see its log", s.From))
	}
}

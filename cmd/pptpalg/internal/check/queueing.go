package check

import (
	"fmt"
	"slices"

	"pptpalg/rules"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// queueing is how control connections come to the daemon.
type queueing struct {
	state arrival
	port  uint16 // of what does not come
	event event  // that keeps them away, or sends them elsewhere
	gre   bool   // GRE does not come, and should
}

type arrival uint8

const (
	arrives   arrival = iota
	nowhere           // no rule of ours is loaded
	elsewhere         // they are for another queue
	missing           // they are not for this port
	preceded          // another rule comes first
)

// queueing looks where the packets of control connections, and GRE, are sent.
func (f firewall) queueing(number uint16, data rules.Data) queueing {
	var ports []uint16 // that come
	var last queueing
	for _, port := range f.ports {
		q := f.queueingOf(port, number)
		if q.state == arrives {
			ports = append(ports, port)
		} else if last.state == arrives || last.state == nowhere {
			last = q
		}
	}
	switch {
	case last.state == nowhere && len(ports) > 0:
		last.state = missing
	case last.state == arrives:
		last.gre = f.gre.queued && !f.queuesGRE(data)
	}
	return last
}

func (f firewall) queueingOf(port, number uint16) queueing {
	for _, j := range f.clients[port] {
		for _, some := range established(j) {
			if q := f.queueingFor(some[0], number); q.state != arrives {
				q.port = port
				return q
			}
		}
	}
	return queueing{}
}

func (f firewall) queueingFor(p passed, number uint16) queueing {
	if i := slices.IndexFunc(p.events, queuedByUs); i >= 0 {
		if e := p.events[i]; e.arg != fmt.Sprint(number) {
			return queueing{state: elsewhere, event: e}
		}
		return queueing{}
	}
	var last event
	for _, e := range p.events {
		if e.base.hook == "prerouting" && leads(e.base) {
			last = e
		}
	}
	if last.text != "" {
		return queueing{state: preceded, event: last}
	}
	return queueing{state: nowhere}
}

// queuedByUs says whether an event is that our own rules queue a packet.
func queuedByUs(e event) bool {
	return e.name == queue && e.chain.ours() && e.base.hook == "prerouting"
}

// ours says whether a chain has the daemon's rules about control connections: that of
// iptables, or the table of the nft form.
func (c chain) ours() bool { return c.name == iptables.Chain || c.table == "nft ip "+nft.Table }

// leads says whether a base chain has a jump to our chain of iptables.
func leads(c chain) bool {
	return slices.ContainsFunc(c.rules, toOurs)
}

func toOurs(r rule) bool { return slices.Contains(r.actions, action{name: jump, arg: iptables.Chain}) }

// queuesGRE says whether rules send GRE to a queue of the daemon's, where it comes and where
// it leaves.
func (f firewall) queuesGRE(data rules.Data) bool {
	for _, j := range f.clients[f.ports[0]] {
		if queuesAt(j.inward[0], "prerouting", data) && queuesAt(j.outward[0], "postrouting", data) {
			return true
		}
	}
	return false
}

// queuesAt says whether a packet has come to a chain that queues what comes there first. Packets
// are sent as they come for the second time (observer).
func queuesAt(p passed, hook string, data rules.Data) bool {
	queues := func(r rule) bool {
		return slices.ContainsFunc(r.actions, func(a action) bool { return a.name == queue && a.arg == fmt.Sprint(data.Queue) })
	}
	return slices.ContainsFunc(p.events, func(e event) bool {
		return e.base.hook == hook && slices.ContainsFunc(e.chain.rules, queues)
	})
}

// first returns a command that has our rules come before others.
func (q queueing) first() string {
	return q.event.base.at(statement{"-p tcp -j " + iptables.Chain, "meta l4proto tcp jump " + iptables.Chain})
}

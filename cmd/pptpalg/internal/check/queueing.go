package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pptpalg/rules"
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
	for _, r := range f.clients(port) {
		there := r.opening()
		there.state = "established"
		for _, p := range []packet{there, r.answer()} {
			if q := f.queueingFor(p, number); q.state != arrives {
				q.port = port
				return q
			}
		}
	}
	return queueing{}
}

func (f firewall) queueingFor(p packet, number uint16) queueing {
	for _, c := range f.rules.base("prerouting", "filter") {
		events := c.walk(p)
		ours := slices.IndexFunc(events, func(e event) bool { return e.action == queue && e.chain.ours() })
		switch {
		case ours >= 0 && events[ours].arg == fmt.Sprint(number):
			return queueing{}
		case ours >= 0:
			return queueing{state: elsewhere, event: events[ours]}
		case len(events) > 0 && f.leads(c) && events[len(events)-1].text != "":
			return queueing{state: preceded, event: events[len(events)-1]}
		}
	}
	return queueing{state: nowhere}
}

// ours says whether a chain has the daemon's rules about control connections: that of
// iptables, or the table of the nft form.
func (c chain) ours() bool { return c.name == rules.Chain || c.home == "nft ip "+rules.NFTTable }

// leads says whether a base chain has a jump to our chain of iptables.
func (f firewall) leads(c chain) bool {
	return slices.ContainsFunc(c.rules, toOurs)
}

func toOurs(r rule) bool { return r.action == jump && r.arg == rules.Chain }

// queuesGRE says whether rules send GRE to a queue of the daemon's, where it comes and where
// it leaves.
func (f firewall) queuesGRE(data rules.Data) bool {
	for _, w := range f.ways {
		arriving := packet{proto: "gre", state: "new", in: w.outside}
		leaving := packet{proto: "gre", state: "untracked", in: w.inside, out: w.outside}
		if f.queuesAt("prerouting", arriving, data) && f.queuesAt("postrouting", leaving, data) {
			return true
		}
	}
	return false
}

func (f firewall) queuesAt(hook string, p packet, data rules.Data) bool {
	return slices.ContainsFunc(f.rules.meets(p, hook, queue), func(e event) bool {
		first, err := strconv.ParseUint(strings.SplitN(e.arg, "-", 2)[0], 10, 16)
		return err == nil && uint16(first) == data.Queue
	})
}

// first returns a command that has our rules come before others.
func (q queueing) first() string {
	return q.event.base.at(statement{"-p tcp -j " + rules.Chain, "meta l4proto tcp jump " + rules.Chain})
}

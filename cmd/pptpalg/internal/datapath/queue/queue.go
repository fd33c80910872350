// Package queue is data path queue: every GRE packet visits the daemon through NFQUEUE, and
// the daemon translates it by a table of its own.
package queue

import (
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
)

// Path keeps the flows in a table.
type Path struct {
	table      *gre.Table
	call, seen uint32         // marks of packets that have visited
	told       func([]byte)   // an ICMP error about a call's packet has come, and is edited
	removed    datapath.Flows // that Carried returns next
}

// New returns the data path. Its rules know packets that have visited by two marks: call
// for a call's packet, seen for any other. It calls told for each ICMP error about a call's packet
// that comes from outside the gateway, when it is edited, in any goroutine.
func New(call, seen uint32, told func([]byte)) *Path {
	return &Path{table: gre.NewTable(), call: call, seen: seen, told: told}
}

func (*Path) Name() datapath.Name { return datapath.Queue }

func (p *Path) Traits() datapath.Traits {
	return datapath.Traits{Visits: &datapath.Visits{Packet: p.packet, Count: p.table.Count, Flows: p.table.Len}}
}

func (p *Path) Apply(events []calls.Event) (failed map[int]error) {
	now := time.Now()
	for i := range events {
		switch e := &events[i]; e.Kind {
		case calls.Install:
			if err := p.table.Install(e.Flow, now); err != nil {
				failed = map[int]error{i: err} // not IPv4: the others are neither
			}
		case calls.Remove:
			if t, there := p.table.Remove(e.Flow, now); there {
				p.keep(e.Flow, t)
			}
		}
	}
	return failed
}

// ApplyLate is Apply: the table removes none but the very flow.
func (p *Path) ApplyLate(events []calls.Event) (failed map[int]error) { return p.Apply(events) }

func (p *Path) keep(f calls.Flow, t gre.Traffic) {
	if p.removed == nil {
		p.removed = make(datapath.Flows)
	}
	p.removed[f.Unmarked()] = traffic(t)
}

func traffic(t gre.Traffic) calls.Traffic {
	return calls.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
}

func (p *Path) Carried() datapath.Flows {
	removed := p.removed
	p.removed = nil
	return removed
}

// Renew: the table is new with each daemon.
func (*Path) Renew(func(calls.Flow) bool) (renewed int, err error) { return 0, nil }

// Snapshot has no strays: what belongs to no flow is counted as it comes.
func (p *Path) Snapshot(have datapath.Flows, _ []calls.Flow, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	return p.View(have, wanted)
}

func (p *Path) View(have datapath.Flows, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	clear(have)
	for flow, t := range p.table.All() {
		have[flow.Unmarked()] = traffic(t)
	}
	return nil, nil
}

// Close: the flows go with the daemon.
func (*Path) Close() error { return nil }

// packet decides on a GRE packet. It takes no lock. Each packet visits when it comes and,
// if it is a call's, when it leaves. Each time it goes through the rules again with a mark,
// so that they do not queue it once more. If it comes with a mark nevertheless, the rules
// are others: then it must not go round for ever.
func (p *Path) packet(k *nfqueue.Packet) nfqueue.Verdict {
	if k.Mark&(p.call|p.seen) != 0 {
		k.Mark &^= p.seen
		return nfqueue.Accept
	}
	if k.Hook == nfqueue.Input || k.Hook == nfqueue.Postrouting {
		k.Mark |= p.seen
		return repeated[p.table.Leave(k.Payload)]
	}
	out := p.table.Enter(k.Payload)
	if out.Verdict == gre.Pass {
		k.Mark |= p.seen
		return nfqueue.Repeat
	}
	if out.Reason == gre.Error && k.Hook == nfqueue.Prerouting {
		p.told(k.Payload)
	}
	if out.Mark != 0 && (out.Sourced || k.Hook == nfqueue.Output) {
		k.Mark = out.Mark &^ (p.call | p.seen)
	}
	k.Mark |= p.call
	return repeated[out.Verdict]
}

// repeated is the verdict that repeats a packet.
var repeated = [...]nfqueue.Verdict{
	gre.Pass: nfqueue.Repeat, gre.Keep: nfqueue.Repeat, gre.Edited: nfqueue.RepeatModified,
}

package replay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// ledger keeps the calls of both gateways, and which GRE is theirs.
type ledger struct {
	records []*record
	legs    map[pipe]*leg   // of the calls that live
	past    map[pipe]int32  // the last call that had it, by number
	strays  map[pipe]*Stray // GRE of no call
}

// pipe is what tells the GRE of one direction of a call, as captured.
type pipe struct {
	src, dst [4]byte
	id       pptp.CallID
}

func pipeOf(src, dst netip.Addr, id pptp.CallID) pipe {
	return pipe{address4(src), address4(dst), id}
}

// address4 is total: 0.0.0.0 stands for what is not IPv4.
func address4(a netip.Addr) [4]byte {
	if !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}

// leg is one direction of a call.
type leg struct {
	traffic *Traffic
	public  pipe // the same outside the NAT
}

// record is a call with the pipes that it has: to the PNS, to the PAC.
type record struct {
	Call
	pipes [2]pipe
	known [2]bool
}

func newLedger() *ledger {
	return &ledger{legs: make(map[pipe]*leg), past: make(map[pipe]int32), strays: make(map[pipe]*Stray)}
}

// open enters a call that has just been requested.
func (l *ledger) open(c *Control, at Moment) *record {
	r := &record{Call: Call{Number: len(l.records) + 1, Control: c, Began: at, State: calls.Requested.String()}}
	l.records = append(l.records, r)
	return r
}

// update writes down how a call is now.
func (l *ledger) update(r *record, v calls.View) {
	r.State = v.State.String()
	r.PNS, r.PAC = party(v.PNS), party(v.PAC)
	l.attach(r, 0, v.PNS, v.PAC)
	l.attach(r, 1, v.PAC, v.PNS)
}

func party(p calls.Party) Party {
	shown := Party{Address: p.Address, PublicAddress: p.Endpoint.Public}
	if p.Known {
		own, public := p.Own, p.Public // not the whole of p is to be kept
		shown.CallID, shown.PublicCallID = &own, &public
	}
	return shown
}

// attach gives a call the GRE that travels to one of its ends: 0 is the PNS.
func (l *ledger) attach(r *record, end int, to, from calls.Party) {
	if !to.Known {
		return
	}
	k := pipeOf(from.Address, to.Address, to.Own)
	if r.known[end] && r.pipes[end] == k {
		return
	}
	l.detach(r, end)
	r.pipes[end], r.known[end] = k, true
	l.legs[k] = &leg{
		traffic: [2]*Traffic{&r.ToPNS, &r.ToPAC}[end],
		public:  pipeOf(from.Endpoint.Public, to.Endpoint.Public, to.Public),
	}
	if s := l.strays[k]; s != nil && s.Note == "" {
		s.Note = fmt.Sprintf("call %d had this Call ID later", r.Number)
	}
}

func (l *ledger) detach(r *record, end int) {
	if !r.known[end] {
		return
	}
	r.known[end] = false
	l.past[r.pipes[end]] = int32(r.Number)
	delete(l.legs, r.pipes[end])
}

// close ends a call.
func (l *ledger) close(r *record, end *End) {
	r.Ended = end
	l.detach(r, 0)
	l.detach(r, 1)
}

// stray counts a GRE packet that belongs to no call.
func (l *ledger) stray(k pipe, size int, at Moment) {
	s := l.strays[k]
	if s == nil {
		s = &Stray{Src: netip.AddrFrom4(k.src), Dst: netip.AddrFrom4(k.dst), CallID: k.id, First: at}
		l.strays[k] = s
		if n, ok := l.past[k]; ok {
			s.Note = fmt.Sprintf("call %d had this Call ID before", n)
		}
	}
	s.add(size)
}

// finish writes the report's lists.
func (l *ledger) finish(r *Report) {
	for _, c := range l.records {
		r.Calls = append(r.Calls, &c.Call)
	}
	for _, s := range l.strays {
		r.Strays = append(r.Strays, *s)
	}
	slices.SortFunc(r.Strays, func(a, b Stray) int { return cmp.Compare(a.First.Packet, b.First.Packet) })
}

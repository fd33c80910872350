package gateway

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// mostTooBig is of how many flows it is kept what routers say of their packets. Anybody who sees a
// call's packets can send errors.
const mostTooBig = 1024

// quoted is a packet that an error quotes: as a flow's packets come, or as they leave.
type quoted struct {
	src, dst netip.Addr
	key      pptp.CallID
}

// tooBigs are what routers have said of packets that were larger than an MTU (RFC 1191): a rule
// queues it where the kernel translates (rules.Config.TooBig), and elsewhere it visits with the
// GRE. Its methods may be called from any goroutine.
type tooBigs struct {
	mu    sync.Mutex
	of    map[quoted]explain.TooBig
	heard uint64 // errors in all
}

// hear takes an IPv4 packet in, and reports whether it is such an error about a call's packet.
func (t *tooBigs) hear(b []byte, now time.Time) bool {
	p, err := packet.ParseIPv4(b)
	if err != nil || p.Fragment() || p.Protocol() != packet.ProtocolICMP {
		return false
	}
	q, err := packet.ParseQuote(p.Payload())
	if err != nil || q.Protocol() != packet.ProtocolGRE {
		return false
	}
	size, mtu, tooBig := q.TooBig()
	key, err := packet.QuotedCallID(q.Payload())
	if err != nil || !tooBig {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard++
	at := quoted{q.Src(), q.Dst(), key}
	told, known := t.of[at]
	if !known {
		t.room()
	}
	t.of[at] = explain.TooBig{Errors: told.Errors + 1, Last: now, Router: p.Src(), Size: size, MTU: mtu}
	return true
}

// room makes room for another flow: the one of which nothing came for longest goes.
func (t *tooBigs) room() {
	if t.of == nil {
		t.of = make(map[quoted]explain.TooBig)
	}
	if len(t.of) < mostTooBig {
		return
	}
	oldest := slices.MinFunc(slices.Collect(maps.Keys(t.of)), func(a, b quoted) int { return t.of[a].Last.Compare(t.of[b].Last) })
	delete(t.of, oldest)
}

// about returns what was said of a flow's packets.
func (t *tooBigs) about(f calls.Flow) explain.TooBig {
	came, left := quoted{f.Src, f.Dst, f.Key}, quoted{f.NewSrc, f.NewDst, f.NewKey}
	t.mu.Lock()
	defer t.mu.Unlock()
	told, more := t.of[came], t.of[left]
	switch {
	case came == left:
		return told
	case more.Last.After(told.Last):
		told, more = more, told
	}
	told.Errors += more.Errors
	return told
}

// total returns how many errors there were.
func (t *tooBigs) total() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return float64(t.heard)
}

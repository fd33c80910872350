package gateway

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/store/cluster/memory"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// manyCalls returns n calls of another gateway behind a public address, each on a connection of its
// own.
func manyCalls(public netip.Addr, n int) []state.Change {
	all := make([]state.Change, n)
	for i := range all {
		inside := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1 + byte(i>>16), byte(i >> 8), byte(i)}), 4000)
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 112 + byte(i>>15), 9}), 1723)
		id, port := pptp.CallID(i&0x7fff+1), uint16(i&0x7fff+1024)
		all[i] = state.Change{Kind: state.Kept, Public: public, Owner: "z", Call: state.Call{Record: calls.Record{
			Number: 9<<56 | uint64(i+1), State: calls.Established, Since: time.Now(),
			Connection: calls.Connection{Original: calls.Tuple{Src: inside, Dst: server}, Reply: calls.Tuple{Src: server, Dst: netip.AddrPortFrom(public, port)}},
			Legs:       [2]calls.LegRecord{{Known: true, Own: 7, Public: id}, {Known: true, Own: id, Public: id}},
		}}}
	}
	return all
}

// hears has a gateway follow calls of another one that owns an address.
func (m *member) hears(public netip.Addr, all []state.Change) {
	m.order.Lock()
	defer m.order.Unlock()
	m.owner(&state.Change{Kind: state.Owned, Public: public, Owner: "z", To: state.Owner{Name: "z", Life: 99}})
	for m.handOne() {
	}
	m.followCalls(all)
	m.carryOut()
}

func (m *member) followed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.Followed()
}

// idle reports whether no entries are left to be changed.
func (m *member) idle() bool {
	c := m.share.chores
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all) == 0
}

// TestHandoverInSlices: connections change hands some at a time, so that packets pass between.
func TestHandoverInSlices(t *testing.T) {
	const many = 3*handSlice + 10
	_, a, _ := pair(t)
	a.hears(publicQ, manyCalls(publicQ, many))
	if n := a.followed(); n != many {
		t.Fatalf("a follows %d calls", n)
	}
	for _, mine := range []bool{true, false} {
		left := many
		a.order.Lock()
		if mine {
			a.own(publicQ, "z")
		} else {
			a.yield(publicQ, "z")
		}
		for left > 0 {
			if n := a.followed(); mine && n != left || !mine && n != many-left {
				t.Errorf("mine %v, %d left: %d are followed", mine, left, n)
			}
			if !a.handOne() {
				t.Fatalf("%d are left", left)
			}
			left -= min(handSlice, left)
		}
		a.order.Unlock()
		a.handAll()
	}
	if n := a.followed(); n != many {
		t.Errorf("a follows %d calls", n)
	}
}

// TestDepartureHoldsNobodyUp: what is pending of an address that has gone is written while packets of
// others pass.
func TestDepartureHoldsNobodyUp(t *testing.T) {
	s := newSite(t)
	s.wait = time.Hour
	a := s.start("a", t.TempDir(), newClusterKernel(publicP, publicQ))
	w, v := a.dial(1, publicP), a.dial(2, publicQ)
	w.setUp(a, 7, 9)
	v.setUp(a, 7, 9)
	a.until("has written all", func() bool { return a.share.store.Status().Pending == 0 })
	a.link.Set(memory.Faults{Hang: true})
	w.clears(a, 7, 7) // is written behind
	gone := make(chan struct{})
	go func() { a.has(publicQ); close(gone) }()
	a.until("does not own it", func() bool { return !a.mine(publicP) })
	v.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	select {
	case <-gone:
		t.Error("nothing was pending")
	default:
	}
	a.has(publicP, publicQ) // it is back
	a.link.Set(memory.Faults{})
	<-gone
	v.clears(a, 7, 7)
	w.setUp(a, 8, 10)
	if !a.mine(publicP) {
		t.Error("a does not own what is back")
	}
}

// BenchmarkHandover: 100,000 calls change hands, and come back; are audited and written down as this
// gateway's; and written again when the shared store has lost its data. It reports how long a packet of another
// address waits at the most meanwhile.
func BenchmarkHandover(b *testing.B) {
	const many = 100_000
	for b.Loop() {
		b.StopTimer()
		s := newSite(b)
		a := s.start("a", b.TempDir(), newClusterKernel(publicP))
		for all := manyCalls(publicQ, many); len(all) > 0; all = all[1000:] {
			a.hears(publicQ, all[:1000])
		}
		w := a.dial(1, publicP)
		w.setUp(a, 7, 9)
		b.StartTimer()
		hand := func(do func(netip.Addr, string)) func() {
			return func() {
				a.order.Lock()
				do(publicQ, "z")
				a.order.Unlock()
				a.handAll()
			}
		}
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"own", hand(a.own)},
			{"audit", a.compare},
			{"rewrite", func() {
				a.lockHanded()
				a.rewrite()
				a.order.Unlock()
			}},
			{"restored", func() {
				a.share.store.Claim(publicQ)
				s.store.Restore(memory.Backup{})
				a.until("is not degraded", func() bool {
					a.shrink()
					st := a.share.store.Status()
					return st.Reloads > 1 && !st.Degraded && st.Pending == 0 && st.Joined
				})
			}},
			{"yield", hand(a.yield)},
			{"audit-followed", a.compare},
		} {
			a.until("has done its chores", a.idle)
			var done atomic.Bool
			go func() {
				defer done.Store(true)
				step.do()
			}()
			began, longest := time.Now(), time.Duration(0)
			for !done.Load() {
				now := time.Now()
				w.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
				longest = max(longest, time.Since(now))
			}
			b.ReportMetric(float64(longest.Milliseconds()), step.name+"-longest-ms")
			b.ReportMetric(float64(time.Since(began).Milliseconds()), step.name+"-ms")
		}
		a.stop()
	}
}

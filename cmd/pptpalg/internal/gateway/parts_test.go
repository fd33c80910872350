package gateway

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// halves starts gateways a and b, which both have an address.
func halves(t *testing.T) (s *site, a, b *member) {
	s = newSite(t)
	s.parts = 2
	return s, s.start("a", t.TempDir(), newClusterKernel(publicP)), s.start("b", t.TempDir(), newClusterKernel(publicP))
}

// dialPart is dial through one of two parts of a public address.
func (m *member) dialPart(n byte, public netip.Addr, part uint16) *wire {
	w := m.dial(n, public)
	m.kernel.lose(&w.Connection)
	w.Reply.Dst = netip.AddrPortFrom(public, part<<15+4000+uint16(n))
	m.kernel.set(w.Connection, 432000)
	return w
}

func part(public netip.Addr, n uint8) netip.Addr {
	return state.PartOf(public, calls.Share{Of: 2, Mine: n})
}

// TestAddressOfSeveral: two gateways have one public address at the same time, and each sets up calls. No
// ID is given twice, and none has to ask the other one. When one dies, the other one goes on with
// its calls, until it is back.
func TestAddressOfSeveral(t *testing.T) {
	s, a, b := halves(t)
	w, v := a.dialPart(1, publicP, 0), b.dialPart(2, publicP, 1)
	ids := map[pptp.CallID]bool{}
	for n := range pptp.CallID(4) {
		ids[w.setUp(a, 7+n, 9+n)], ids[v.setUp(b, 7+n, 20+n)] = true, true
	}
	if len(ids) != 8 {
		t.Errorf("public IDs %v", ids)
	}
	first := w.setUp(a, 17, 40)
	a.until("follows", func() bool { return len(a.Calls()) == 9 })
	b.until("follows", func() bool { return len(b.Calls()) == 9 && b.kernel.count() == 18 })
	if !a.mine(part(publicP, 0)) || a.mine(part(publicP, 1)) || b.mine(part(publicP, 0)) || !b.mine(part(publicP, 1)) {
		t.Errorf("a has %+v, b has %+v", a.Cluster().Addresses, b.Cluster().Addresses)
	}
	if owner, here := b.Owners()(&[]calls.View{a.Calls()[0]}[0]); owner != "a" || here {
		t.Errorf("b says that %s owns the call of a, here %v", owner, here)
	}
	a.stop()
	b.until("knows that a has gone", func() bool { return !b.share.store.Up("a") })
	w.clears(b, 17, first)
	second := w.setUp(b, 18, 41)
	again := s.start("a", a.dir, a.kernel)
	again.until("has its part again", func() bool { return again.mine(part(publicP, 0)) })
	b.until("follows", func() bool { return !b.mine(part(publicP, 0)) })
	w.clears(again, 18, second)
	if n := testutil.ToFloat64(b.share.metrics.takeovers); n != 1 || !b.mine(part(publicP, 1)) {
		t.Errorf("b has taken over %v times", n)
	}
}

// TestAstray: a control connection comes to the wrong gateway. While it may be that its owner has died,
// its packets must come again; then they pass as they are. It is counted and named, and nothing is taken.
func TestAstray(t *testing.T) {
	_, a, b := halves(t)
	w := a.dialPart(1, publicP, 0)
	w.setUp(a, 8, 9)
	b.until("follows", b.knows(w, calls.Established))
	for range 3 {
		if w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0) != nil {
			t.Error("the packet passes at once")
		}
	}
	b.mu.Lock()
	b.share.astray[w.Original].since = time.Now().Add(-heldTime)
	b.mu.Unlock()
	if w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0) == nil {
		t.Error("the packet is dropped for ever")
	}
	st := b.Cluster()
	if n := testutil.ToFloat64(b.share.metrics.astray); n != 1 || len(st.Astray) != 1 || st.Astray[0].Owner != "a" || st.Astray[0].Connection != w.Original {
		t.Errorf("%v connections are counted: %+v", n, st.Astray)
	}
	if !a.mine(part(publicP, 0)) || b.mine(part(publicP, 0)) {
		t.Error("the part has moved")
	}
}

// TestPartsAlike: gateways whose parts do not go together get no address.
func TestPartsAlike(t *testing.T) {
	s := &share{name: "a", part: calls.Share{Of: 2, Mine: 1}}
	for part, want := range map[string]bool{"1/2": true, "2/2": false, "1/4": false, "": false} {
		if err := s.unlike(&state.Member{Name: "b", Share: part}); (err == nil) != want {
			t.Errorf("beside %q: %v", part, err)
		}
	}
	if err := s.unlike(&state.Member{Name: "a", Share: "1/2"}); err != nil {
		t.Error(err)
	}
}

package gateway

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

var (
	inside  = connection.Original.Src.Addr()
	server  = connection.Original.Dst.Addr()
	public  = connection.Reply.Dst.Addr()
	nowhere = netip.MustParseAddr("192.0.2.99")
)

// untouched returns the control connection of somebody who has no need of NAT.
func untouched(src, dst netip.Addr) calls.Connection {
	t := calls.Tuple{Src: netip.AddrPortFrom(src, 5000), Dst: netip.AddrPortFrom(dst, 1723)}
	return calls.Connection{Original: t, Reply: t.Reversed()}
}

func TestConcern(t *testing.T) {
	served := connection // a server inside, behind the public address
	served.Original.Src, served.Original.Dst = netip.AddrPortFrom(nowhere, 5000), netip.AddrPortFrom(public, 1723)
	served.Reply.Src, served.Reply.Dst = netip.AddrPortFrom(inside, 1723), served.Original.Src
	helped := connection
	helped.Helper = "pptp"
	known := map[netip.Addr]time.Time{public: {}}
	tests := []struct {
		name     string
		live     []calls.Connection
		src, dst netip.Addr
		key      pptp.CallID
		want     bool // where calls that NAT does not touch are left
		follow   bool // and where they are followed
	}{
		{"from the server to the public address", []calls.Connection{connection}, server, public, 5, true, true},
		{"with key 0", []calls.Connection{connection}, server, public, 0, true, true},
		{"from the client to the server", []calls.Connection{connection}, inside, server, 5, true, true},
		{"from a client outside", []calls.Connection{served}, nowhere, public, 5, true, true},
		{"from the server inside", []calls.Connection{served}, inside, nowhere, 5, true, true},
		{"from a stranger to the public address", nil, nowhere, public, 5, true, true},
		{"from a stranger, with key 0", nil, nowhere, public, 0, false, false},
		{"between strangers", []calls.Connection{connection}, nowhere, server, 5, false, false},
		{"untranslated", []calls.Connection{untouched(inside, server)}, inside, server, 5, false, true},
		{"to a server on the gateway", []calls.Connection{untouched(nowhere, public)}, nowhere, public, 5, false, true},
		{"back from a client of the gateway's own", []calls.Connection{connection, untouched(public, server)}, server, public, 5, false, true},
		{"under the kernel's helper", []calls.Connection{helped}, server, public, 5, false, false},
	}
	for _, tt := range tests {
		all := []conntrack.Stray{{Src: tt.src, Dst: tt.dst, Key: tt.key}}
		for follow, want := range map[bool]bool{false: tt.want, true: tt.follow} {
			g := &Gateway{cfg: Config{Follow: follow}}
			if got := len(g.concern(all, tt.live, known)) == 1; got != want {
				t.Errorf("%s, followed %v: %v, want %v", tt.name, follow, got, want)
			}
		}
	}
}

// TestStraysAreCounted has GRE come that is no call's, and compares.
func TestStraysAreCounted(t *testing.T) {
	stray := func(id uint32, packets uint64, counted bool) conntrack.Stray {
		return conntrack.Stray{Src: server, Dst: public, Key: 5, ID: id, Traffic: calls.Traffic{Packets: packets, Counted: counted}}
	}
	tests := []struct {
		name           string
		strays         []conntrack.Stray
		flows, packets float64
	}{
		{"from before the daemon", []conntrack.Stray{stray(1, 10, true)}, 1, 0},
		{"more of it", []conntrack.Stray{stray(1, 13, true)}, 1, 3},
		{"a new one", []conntrack.Stray{stray(1, 13, true), stray(2, 5, true)}, 2, 8},
		{"its like after it", []conntrack.Stray{stray(3, 2, true)}, 1, 10},
		{"one that nobody counts", []conntrack.Stray{stray(4, 0, false)}, 1, 11},
		{"it goes on", []conntrack.Stray{stray(4, 0, false)}, 1, 11},
		{"none", nil, 0, 11},
		{"a stranger's", []conntrack.Stray{{Src: nowhere, Dst: nowhere, Key: 5, ID: 9}}, 0, 11},
	}
	r := newRig(t, t.TempDir())
	for _, tt := range tests {
		r.kernel.strays = tt.strays
		r.sweeper.listed = time.Time{} // so that it lists all
		r.compare()
		if flows := testutil.ToFloat64(r.metrics.strays); flows != tt.flows {
			t.Errorf("%s: %v flows, want %v", tt.name, flows, tt.flows)
		}
		if packets := float64(r.strays.packets.Load()); packets != tt.packets {
			t.Errorf("%s: %v packets, want %v", tt.name, packets, tt.packets)
		}
	}
}

// TestPublicAddressIsRemembered for a time: what a server goes on to send when the last
// control connection is gone comes to one of our addresses.
func TestPublicAddressIsRemembered(t *testing.T) {
	g, now := new(Gateway), time.Now()
	w := &g.strays
	take := func(all []conntrack.Stray, live []calls.Connection, at time.Time) int {
		w.know(live, at)
		return w.take(g.concern(all, live, w.public))
	}
	all := []conntrack.Stray{{Src: nowhere, Dst: public, Key: 5}}
	if n := take(all, []calls.Connection{connection}, now); n != 1 {
		t.Errorf("%d while a connection is there", n)
	}
	if n := take(all, nil, now.Add(publicMemory)); n != 1 {
		t.Errorf("%d soon after", n)
	}
	if n := take(all, nil, now.Add(publicMemory+1)); n != 0 || len(w.public) != 0 {
		t.Errorf("%d long after; still known: %v", n, w.public)
	}
}

func TestFewStrays(t *testing.T) {
	wanted, n := firstStrays(), 0
	for range 2 * mostStrays {
		if wanted(nil) {
			n++
		}
	}
	if n != mostStrays {
		t.Errorf("%d are wanted, want %d", n, mostStrays)
	}
}

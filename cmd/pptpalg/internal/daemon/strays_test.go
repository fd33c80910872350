package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
	"pptpalg/conntrack/ctnetlink"
)

var (
	inside  = connection.Original.Src.Addr()
	server  = connection.Original.Dst.Addr()
	public  = connection.Reply.Dst.Addr()
	nowhere = netip.MustParseAddr("192.0.2.99")
)

// untouched returns the control connection of somebody who has no need of NAT.
func untouched(src, dst netip.Addr) conntrack.Connection {
	t := conntrack.Tuple{Src: netip.AddrPortFrom(src, 5000), Dst: netip.AddrPortFrom(dst, 1723)}
	return conntrack.Connection{Original: t, Reply: t.Reversed()}
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
		live     []conntrack.Connection
		src, dst netip.Addr
		key      pptp.CallID
		want     bool
	}{
		{"from the server to the public address", []conntrack.Connection{connection}, server, public, 5, true},
		{"with key 0", []conntrack.Connection{connection}, server, public, 0, true},
		{"from the client to the server", []conntrack.Connection{connection}, inside, server, 5, true},
		{"from a client outside", []conntrack.Connection{served}, nowhere, public, 5, true},
		{"from the server inside", []conntrack.Connection{served}, inside, nowhere, 5, true},
		{"from a stranger to the public address", nil, nowhere, public, 5, true},
		{"from a stranger, with key 0", nil, nowhere, public, 0, false},
		{"between strangers", []conntrack.Connection{connection}, nowhere, server, 5, false},
		{"untranslated", []conntrack.Connection{untouched(inside, server)}, inside, server, 5, false},
		{"to a server on the gateway", []conntrack.Connection{untouched(nowhere, public)}, nowhere, public, 5, false},
		{"back from a client of the gateway's own", []conntrack.Connection{connection, untouched(public, server)}, server, public, 5, false},
		{"under the kernel's helper", []conntrack.Connection{helped}, server, public, 5, false},
	}
	for _, tt := range tests {
		all := []ctnetlink.Stray{{Src: tt.src, Dst: tt.dst, Key: tt.key}}
		if got := len(concern(all, tt.live, known)) == 1; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestStraysAreCounted has GRE come that is no call's, and compares.
func TestStraysAreCounted(t *testing.T) {
	stray := func(id uint32, packets uint64, counted bool) ctnetlink.Stray {
		return ctnetlink.Stray{Src: server, Dst: public, Key: 5, ID: id, Traffic: conntrack.Traffic{Packets: packets, Counted: counted}}
	}
	tests := []struct {
		name           string
		strays         []ctnetlink.Stray
		flows, packets float64
	}{
		{"from before the daemon", []ctnetlink.Stray{stray(1, 10, true)}, 1, 0},
		{"more of it", []ctnetlink.Stray{stray(1, 13, true)}, 1, 3},
		{"a new one", []ctnetlink.Stray{stray(1, 13, true), stray(2, 5, true)}, 2, 8},
		{"its like after it", []ctnetlink.Stray{stray(3, 2, true)}, 1, 10},
		{"one that nobody counts", []ctnetlink.Stray{stray(4, 0, false)}, 1, 11},
		{"it goes on", []ctnetlink.Stray{stray(4, 0, false)}, 1, 11},
		{"none", nil, 0, 11},
		{"a stranger's", []ctnetlink.Stray{{Src: nowhere, Dst: nowhere, Key: 5, ID: 9}}, 0, 11},
	}
	r := newRig(t, t.TempDir())
	for _, tt := range tests {
		r.kernel.strays = tt.strays
		r.compared = 0 // so that it lists all
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
	var w strayWatch
	now := time.Now()
	all := []ctnetlink.Stray{{Src: nowhere, Dst: public, Key: 5}}
	if n := w.take(all, []conntrack.Connection{connection}, now); n != 1 {
		t.Errorf("%d while a connection is there", n)
	}
	if n := w.take(all, nil, now.Add(publicMemory)); n != 1 {
		t.Errorf("%d soon after", n)
	}
	if n := w.take(all, nil, now.Add(publicMemory+1)); n != 0 || len(w.public) != 0 {
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

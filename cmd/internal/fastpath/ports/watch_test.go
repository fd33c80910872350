package ports

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/netns"
)

// patience is for what takes moments, however loaded the machine is.
const patience = 30 * time.Second

// watched collects what Watch tells in a namespace.
type watched struct {
	mu   sync.Mutex
	all  Change
	told told
}

// told counts how often each was told.
type told struct{ Links, Routes, Rules, Addresses, Filters, Ruleset int }

func (w *watched) changed(c Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.add(c)
	for _, k := range []struct {
		told bool
		n    *int
	}{
		{c.Links, &w.told.Links}, {c.Routes, &w.told.Routes}, {c.Rules, &w.told.Rules}, {c.Addresses, &w.told.Addresses}, {c.Filters, &w.told.Filters}, {c.Ruleset, &w.told.Ruleset},
	} {
		if k.told {
			*k.n++
		}
	}
}

// take returns what was told since it was asked last.
func (w *watched) take() Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.all
	w.all, w.told = Change{}, told{}
	return c
}

// watch runs Watch until the test ends, and returns when it listens.
func watch(t *testing.T, p *netns.Place) *watched {
	t.Helper()
	w := new(watched)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends in the namespace
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", p.Thread), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = Watch(ctx, w.changed)
		}
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if c := w.take(); c.some() {
			if !cmp.Equal(c, everything) {
				t.Fatalf("first: %+v", c)
			}
			return w
		}
		if time.Now().After(end) {
			t.Fatal("Watch does not listen")
		}
	}
}

// settled makes one change more that is told by each socket, and returns how often what was
// told when all of them were read up to there.
func (w *watched) settled(t *testing.T, p *netns.Place, n int) told {
	t.Helper()
	run(t, p, fmt.Sprintf("ip rule add fwmark %d table 9; ip route add blackhole 203.0.113.%d; nft add table ip last%d", n, n, n))
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		got := w.told
		w.mu.Unlock()
		if got.Rules > 0 && got.Routes > 0 && got.Ruleset > 0 {
			return got
		}
		if time.Now().After(end) {
			t.Fatalf("told %+v, not of the last changes", got)
		}
	}
}

// until waits until all of a change was told.
func (w *watched) until(t *testing.T, want Change) Change {
	t.Helper()
	var all Change
	holds := func() bool {
		both := all
		both.add(want)
		both.Came, both.Went = all.Came, all.Went
		return cmp.Equal(both, all) && subset(want.Came, all.Came) && subset(want.Went, all.Went)
	}
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		all.add(w.take())
		if time.Now().After(end) {
			t.Fatalf("told %+v, want %+v", all, want)
		}
	}
	return all
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// TestWatch makes changes that matter. Each must be told for what it is.
func TestWatch(t *testing.T) {
	links := Change{Links: true}
	tests := []struct {
		name, before, change string
		want                 Change
	}{
		{"link down", "", "ip link set wan down", links},
		{"carrier", "", "ip link set server down", links},
		{"MAC", "", "ip link set wan address 02:00:00:00:00:07", links},
		{"MTU", "", "ip link set wan mtu 1400", links},
		{"master", "ip link add br0 type bridge", "ip link set lan master br0", links},
		{"no master", "ip link add br0 type bridge; ip link set lan master br0", "ip link set lan nomaster", links},
		{"new link", "", "ip link add br1 type bridge", Change{Links: true, Came: []string{"br1"}}},
		{"link gone", "", "ip link del wan", Change{Links: true, Went: []string{"wan", "server"}}},
		{"renamed", "", "ip link set wan down; ip link set wan name ppp0", Change{Links: true, Came: []string{"ppp0"}, Went: []string{"wan"}}},
		{"moved to another namespace", "", "ip link set wan netns $OTHER", Change{Links: true, Went: []string{"wan"}}},
		{"qdisc", "", "tc qdisc add dev wan root pfifo", links},
		{"qdisc gone", "tc qdisc add dev wan root pfifo", "tc qdisc del dev wan root", links},
		{"filter", "tc qdisc add dev wan clsact", "tc filter add dev wan egress " + aFilter, Change{Filters: true}},
		{"filter gone", "tc qdisc add dev wan clsact; tc filter add dev wan egress " + aFilter, "tc filter del dev wan egress", Change{Filters: true}},
		{"filter gone with its qdisc", "tc qdisc add dev wan clsact; tc filter add dev wan egress " + aFilter, "tc qdisc del dev wan clsact", Change{Filters: true}},
		{"forwarding", "sysctl -qw net.ipv4.conf.wan.forwarding=1", "sysctl -qw net.ipv4.conf.wan.forwarding=0", links},
		{"address", "", "ip address add 192.0.2.5/24 dev wan", Change{Addresses: true}},
		{"address gone", "", "ip address del 192.0.2.1/24 dev wan", Change{Addresses: true}},
		{"rule", "", "ip rule add fwmark 1 table 7", Change{Rules: true}},
		{"rule gone", "ip rule add fwmark 1 table 7", "ip rule del fwmark 1 table 7", Change{Rules: true}},
		{"IPsec policy", "", ipsec, Change{Rules: true}},
		{"IPsec policy gone", ipsec, "ip xfrm policy flush", Change{Rules: true}},
		{"route", "", "ip route add 198.51.100.0/24 via 192.0.2.9", Change{Routes: true}},
		{"route of another table", "", "ip route add blackhole 198.51.100.0/24 table 7", Change{Routes: true}},
		{"route gone", "ip route add 198.51.100.0/24 via 192.0.2.9", "ip route del 198.51.100.0/24", Change{Routes: true}},
		{"nexthop", "ip nexthop add id 1 via 192.0.2.9 dev wan", "ip nexthop replace id 1 via 192.0.2.8 dev wan", Change{Routes: true}},
		{"nft table", "", "nft add table inet x", Change{Ruleset: true}},
		{"nft set", "nft 'add table ip x; add set ip x s { type ipv4_addr; }'", "nft add element ip x s { 10.0.0.2 }", Change{Ruleset: true}},
		{"iptables-nft", "", "iptables-nft -A FORWARD -j DROP", Change{Ruleset: true}},
		{"flush", "nft add table ip x", "nft flush ruleset", Change{Ruleset: true}},
		{"ip and ip6 at once", "nft 'add table ip x; add table ip6 x'", "nft 'add chain ip x c; add chain ip6 x c'", Change{Ruleset: true}},
	}
	other := place(t, "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := place(t, twoPairs+tt.before)
			w := watch(t, p)
			run(t, p, strings.ReplaceAll(tt.change, "$OTHER", strconv.Itoa(other.Thread)))
			got := w.until(t, tt.want)
			// Links and routes come and go with each other. All else is one thing only.
			if got.Ruleset != tt.want.Ruleset || got.Rules != tt.want.Rules {
				t.Errorf("told %+v, want %+v", got, tt.want)
			}
		})
	}
}

// aFilter is one that lets everything pass.
const aFilter = "protocol ip u32 match u32 0 0 flowid 1:1"

// ipsec has what clients send go into a tunnel.
const ipsec = "ip xfrm policy add src 10.77.0.0/24 dst 203.0.113.0/24 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"

// TestWatchFeatures: veth can do less when its peer stops polling, and no link event says so.
func TestWatchFeatures(t *testing.T) {
	p := place(t, twoPairs)
	w := watch(t, p)
	for _, on := range []uint32{1, 0} {
		gro(t, p, on, "server")
		w.until(t, Change{Links: true})
	}
}

// TestWatchIgnores makes changes that cannot matter.
func TestWatchIgnores(t *testing.T) {
	tests := []struct{ name, before, change string }{
		{"nothing", "", ""},
		{"neighbour", "", "ip neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev wan; ip neighbour del 192.0.2.9 dev wan"},
		{"alias", "", "ip link set wan alias uplink"},
		{"queue length", "", "ip link set wan txqueuelen 50"},
		{"port of a bridge", "ip link add br0 type bridge; ip link set lan master br0", "bridge link set dev lan cost 7"},
		{"IPv6 address", "", "ip -6 address add 2001:db8::1/64 dev wan nodad"},
		{"IPv6 route", "", "ip -6 route add blackhole 2001:db8:1::/64"},
		{"IPv6 rule", "", "ip -6 rule add fwmark 1 table 7"},
		{"ip6 table", "", "nft add table ip6 x"},
		{"ip6tables-nft", "", "ip6tables-nft -A FORWARD -j DROP"},
		{"clsact", "", "tc qdisc add dev wan clsact"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := place(t, twoPairs+tt.before)
			w := watch(t, p)
			run(t, p, tt.change)
			if got, want := w.settled(t, p, 1), (told{Rules: 1, Routes: 1, Ruleset: 1}); got != want {
				t.Errorf("told %+v, want %+v", got, want)
			}
		})
	}
}

func TestPacer(t *testing.T) {
	type passed struct {
		At     time.Duration
		Change Change
	}
	routes, rules, filters := Change{Routes: true}, Change{Rules: true}, Change{Filters: true}
	const ms = time.Millisecond
	tests := []struct {
		name string
		in   []passed
		want []passed
	}{
		{"one", []passed{{0, routes}}, []passed{{0, routes}}},
		{"the second waits", []passed{{0, routes}, {1 * ms, routes}}, []passed{{0, routes}, {200 * ms, routes}}},
		{"a storm", []passed{{0, routes}, {50 * ms, routes}, {199 * ms, routes}, {201 * ms, routes}, {399 * ms, routes}, {500 * ms, routes}},
			[]passed{{0, routes}, {200 * ms, routes}, {400 * ms, routes}, {600 * ms, routes}}},
		{"after a pause", []passed{{0, routes}, {300 * ms, routes}}, []passed{{0, routes}, {300 * ms, routes}}},
		{"others at once", []passed{{0, rules}, {1 * ms, rules}, {2 * ms, Change{Links: true, Came: []string{"ppp0"}}}},
			[]passed{{0, rules}, {1 * ms, rules}, {2 * ms, Change{Links: true, Came: []string{"ppp0"}}}}},
		{"another takes the routes along", []passed{{0, routes}, {10 * ms, routes}, {20 * ms, rules}, {30 * ms, routes}},
			[]passed{{0, routes}, {20 * ms, Change{Routes: true, Rules: true}}, {220 * ms, routes}}},
		{"another leaves the pause as it is", []passed{{0, routes}, {20 * ms, rules}, {30 * ms, routes}},
			[]passed{{0, routes}, {20 * ms, rules}, {200 * ms, routes}}},
		{"filters wait as routes do", []passed{{0, routes}, {10 * ms, filters}, {20 * ms, routes}, {300 * ms, filters}},
			[]passed{{0, routes}, {200 * ms, Change{Routes: true, Filters: true}}, {400 * ms, filters}}},
		{"both", []passed{{0, routes}, {20 * ms, Change{Routes: true, Addresses: true}}}, []passed{{0, routes}, {20 * ms, Change{Routes: true, Addresses: true}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []passed
				began := time.Now()
				p := NewPacer(func(c Change) { got = append(got, passed{time.Since(began), c}) })
				for _, in := range tt.in {
					time.Sleep(time.Until(began.Add(in.At)))
					p.Changed(in.Change)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				p.Changed(routes)
				p.Changed(routes)
				p.Stop()
				time.Sleep(time.Second)
				if diff := cmp.Diff(tt.want, got[:len(got)-1]); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

// TestKnownLost: after a loss everything has changed, and the links that came and went are
// found out.
func TestKnownLost(t *testing.T) {
	k := known{links: map[int]link{1: {index: 1, name: "lo"}, 2: {index: 2, name: "old"}, 3: {index: 3, name: "gone"}}}
	got := k.replace([]link{{index: 1, name: "lo"}, {index: 2, name: "new"}, {index: 4, name: "came"}})
	want := Change{Links: true, Routes: true, Rules: true, Addresses: true, Filters: true, Ruleset: true, Came: []string{"new", "came"}, Went: []string{"old", "gone"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(k.links) != 3 || k.links[2].name != "new" {
		t.Errorf("known: %v", k.links)
	}
}

// TestLost has the kernel drop messages of a socket that nobody reads meanwhile.
func TestLost(t *testing.T) {
	p := place(t, twoPairs)
	w := watcher{known: known{links: make(map[int]link)}}
	defer w.close()
	do(t, p, w.listen)
	for i, s := range w.sources {
		if err := s.conn.SetReadBuffer(1); err != nil { // the least that there is
			t.Fatal(i, err)
		}
	}
	run(t, p, `
for i in $(seq 40); do
	ip link set wan mtu $((1000+i)); ip route add blackhole 203.0.113.$i; nft add table ip t$i
done; ip link add br7 type bridge`)
	for i, want := range []Change{{Routes: true}, {Ruleset: true}, everything} {
		s := w.sources[i]
		if want.Links {
			want.Came = []string{"br7"}
		}
		got, err := s.next()
		for end := time.Now().Add(patience); err == nil && !cmp.Equal(got, want) && time.Now().Before(end); {
			if err = s.conn.SetReadDeadline(end); err == nil {
				got, err = s.next()
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("socket %d: %v (-want +got)\n%s", i, err, diff)
		}
	}
}

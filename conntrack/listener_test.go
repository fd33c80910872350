package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"pptpalg/alg/calls"
)

// listen opens a Listener in the namespace.
func (n *namespace) listen(t testing.TB, own ...*Conn) *Listener {
	t.Helper()
	var l *Listener
	var err error
	n.do(func() { l, err = Listen([]uint16{1724, 1723, 1723}, own...) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// next returns what the next event is about.
func next(t testing.TB, l *Listener) Destroyed {
	t.Helper()
	all, err := l.Next(time.Now().Add(10 * time.Second))
	if err != nil || len(all) != 1 {
		t.Fatalf("Next() = %+v, %v; want one entry", all, err)
	}
	return all[0]
}

const (
	insertFrom = "conntrack -I -p tcp --state ESTABLISHED -t 1000 -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport "
	deleteFrom = "conntrack -D -p tcp -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport "
	aTunnel    = "-p gre -s 10.0.0.9 -d 192.0.2.9 --srckey 0 --dstkey 0"
)

// TestDestroyed: what is ours is heard of.
func TestDestroyed(t *testing.T) {
	control := calls.Connection{Original: left, Reply: left.Reversed()}
	marked := control
	marked.Mark, marked.Zone = 5, 7
	other := control
	other.Original.Dst = netip.AddrPortFrom(other.Original.Dst.Addr(), 1724)
	other.Reply = other.Original.Reversed()
	closed := control
	closed.Closing, closed.Reset = true, true
	for _, tt := range []struct {
		name, insert, remove string
		want                 []Destroyed
	}{
		{"control connection", insertFrom + "1723", deleteFrom + "1723", []Destroyed{{Connection: control}}},
		{"closed", strings.Replace(insertFrom, "ESTABLISHED", "CLOSE", 1) + "1723", deleteFrom + "1723", []Destroyed{{Connection: closed}}},
		{"its other port", insertFrom + "1724", deleteFrom + "1724", []Destroyed{{Connection: other}}},
		{"mark and zone", insertFrom + "1723 -m 5 -w 7", deleteFrom + "1723 -w 7", []Destroyed{{Connection: marked}}},
		{"table emptied", insertFrom + "1723", "conntrack -F", []Destroyed{{Connection: control}}},
		{"tunnel that flows may make do with", "conntrack -I -t 1000 -u SEEN_REPLY,ASSURED " + aTunnel, "conntrack -D " + aTunnel,
			[]Destroyed{{Flow: flow("192.0.2.9 > 10.0.0.9 0 => 192.0.2.9 > 10.0.0.9 0")}, {Flow: flow("10.0.0.9 > 192.0.2.9 0 => 10.0.0.9 > 192.0.2.9 0")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			l := ns.listen(t)
			ns.run(t, tt.insert, tt.remove)
			got, err := l.Next(time.Now().Add(10 * time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if d := got[i].Left; d < 900*time.Second || d > 1000*time.Second || got[i].By == 0 {
					t.Errorf("%v left, deleted by %d", d, got[i].By)
				}
				got[i].Left, got[i].By = 0, 0
			}
			if diff := gocmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("destroyed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDestroyedOthers: events come in order, so that what is heard first was not preceded by
// what others have.
func TestDestroyedOthers(t *testing.T) {
	ns := newNamespace(t)
	l := ns.listen(t)
	for _, tt := range []struct{ name, insert, remove string }{
		{"TCP to another port", insertFrom + "80", deleteFrom + "80"},
		{"TCP from one of the ports", strings.Replace(insertFrom, "1024", "1723", 1) + "80", strings.Replace(deleteFrom, "1024", "1723", 1) + "80"},
		{"TCP over IPv6", "conntrack -I -p tcp --state ESTABLISHED -t 1000 -s 2001:db8::1 -d 2001:db8::2 --sport 1024 --dport 1723", "conntrack -D -f ipv6 -s 2001:db8::1"},
		{"UDP", "conntrack -I -p udp -t 1000 -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport 1723", "conntrack -D -p udp"},
		{"ICMP", "conntrack -I -p icmp -t 1000 -s 10.0.0.2 -d 192.0.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 1723", "conntrack -D -p icmp"},
		{"stray GRE", "conntrack -I -t 1000 " + aTunnel, "conntrack -D " + aTunnel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns.run(t, tt.insert, tt.remove, insertFrom+"1723", deleteFrom+"1723")
			if d := next(t, l); d.Connection.Original != left {
				t.Errorf("destroyed: %+v", d)
			}
			if all, err := l.Next(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("and then: %+v, %v", all, err)
			}
		})
	}
}

// TestDestroyedFlow: another process's deletes are heard of, and those of the Listener's
// own Conns are not.
func TestDestroyedFlow(t *testing.T) {
	ns := newNamespace(t)
	own, other := ns.dial(t), ns.dial(t)
	l := ns.listen(t, own)
	for _, f := range []calls.Flow{toClient, toServer} {
		mustCreate(t, own, f)
		mustDelete(t, own, f)
		mustCreate(t, own, f)
		mustDelete(t, other, f)
		d := next(t, l)
		if !d.IsFlow() || d.Flow != f || d.By != other.port() || d.Left < (Timeout-60)*time.Second || d.Left > Timeout*time.Second {
			t.Errorf("destroyed: %+v, want %v with %d s left by %d", d, f, Timeout, other.port())
		}
	}
}

// TestDestroyedByKernel: an entry that expires has no time left, and one that goes with the
// address that masquerading gave it has. Nobody has deleted them.
func TestDestroyedByKernel(t *testing.T) {
	t.Run("expiry", func(t *testing.T) {
		ns := newNamespace(t)
		l := ns.listen(t)
		ns.run(t, strings.Replace(insertFrom, "-t 1000", "-t 1", 1)+"1723")
		time.Sleep(1100 * time.Millisecond) // until then it is no expiry
		ns.run(t, "conntrack -L")           // has the kernel notice
		if d := next(t, l); d.Left != 0 || d.By != 0 || d.Connection.Original != left {
			t.Errorf("destroyed: %+v", d)
		}
	})
	t.Run("address gone", func(t *testing.T) {
		n := newNetwork(t)
		n.gateway.run(t, masquerade)
		l := n.gateway.listen(t)
		connectTCP(t, n.client, listen(t, n.server, ":1723"), serverAddr+":1723")
		n.gateway.run(t, "ip addr del "+publicAddr+"/24 dev server")
		if d := next(t, l); d.Left == 0 || d.By != 0 || d.Connection.Reply.Dst.Addr().String() != publicAddr {
			t.Errorf("destroyed: %+v", d)
		}
	})
}

// silence is for how long no event comes once all have come that were sent.
const silence = 200 * time.Millisecond

// TestFlushGivesAll, or tells that it has not.
func TestFlushGivesAll(t *testing.T) {
	for _, tt := range []struct {
		entries int
		lost    bool
	}{{100, false}, {5000, true}} {
		ns := newNamespace(t)
		c := ns.dial(t)
		l := ns.listen(t)
		flows := manyFlows(tt.entries)
		mustApply(t, c, changes(calls.Install, flows...))
		ns.run(t, "conntrack -F")
		missing, lost := make(map[calls.Flow]bool), false
		for _, f := range flows {
			missing[f] = true
		}
		for {
			all, err := l.Next(time.Now().Add(silence))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			lost = lost || errors.Is(err, ErrLost)
			for _, d := range all {
				delete(missing, d.Flow)
			}
		}
		if lost != tt.lost || lost != (len(missing) > 0) {
			t.Errorf("of %d entries %d are missing, events lost: %v", tt.entries, len(missing), lost)
		}
		// It goes on afterwards.
		mustCreate(t, c, toClient)
		ns.run(t, "conntrack -F")
		if d := next(t, l); d.Flow != toClient {
			t.Errorf("destroyed: %+v", d)
		}
	}
}

// TestEventsTogether: those that are waiting come at once, even at the deadline, but not more of
// them than are good for whoever waits for something else.
func TestEventsTogether(t *testing.T) {
	ns := newNamespace(t)
	c, other := ns.dial(t), ns.dial(t)
	l := ns.listen(t, c)
	must0 := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must0(l.setBuffer(4 << 20))
	flows := manyFlows(eventsAtOnce + 100)
	mustApply(t, c, changes(calls.Install, flows...))
	mustApply(t, other, changes(calls.Remove, flows...))
	for _, want := range [][]calls.Flow{flows[:eventsAtOnce], flows[eventsAtOnce:]} {
		all, err := l.Next(time.Now())
		must0(err)
		var got []calls.Flow
		for _, d := range all {
			got = append(got, d.Flow)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d events, want %d in their order", len(got), len(want))
		}
	}
	if all, err := l.Next(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("and then: %+v, %v", all, err)
	}
}

// TestEventsOn holds what is said of net.netfilter.nf_conntrack_events: which entries are
// reported, those made before anybody listened, and those made after. With 2 the kernel
// promises nothing of the former.
func TestEventsOn(t *testing.T) {
	for _, tt := range []struct {
		events          int
		on, early, late bool
	}{{events: 0}, {1, true, true, true}, {events: 2, on: true, late: true}} {
		t.Run(fmt.Sprint(tt.events), func(t *testing.T) {
			ns := newNamespace(t)
			c := ns.dial(t)
			ns.run(t, fmt.Sprintf("sysctl -qw net.netfilter.nf_conntrack_events=%d", tt.events))
			mustCreate(t, c, toClient)
			l := ns.listen(t)
			mustCreate(t, c, toServer)
			ns.do(func() {
				if got := EventsOn(); got != tt.on {
					t.Errorf("events are on: %v", got)
				}
			})
			ns.run(t, "conntrack -D -p gre")
			heard := make(map[calls.Flow]bool)
			for {
				all, err := l.Next(time.Now().Add(silence))
				if err != nil {
					break
				}
				for _, d := range all {
					heard[d.Flow] = true
				}
			}
			if tt.events != 2 && heard[toClient] != tt.early || heard[toServer] != tt.late {
				t.Errorf("heard of the early one: %v, of the late one: %v", heard[toClient], heard[toServer])
			}
		})
	}
}

// TestListenerClose ends a Next that waits.
func TestListenerClose(t *testing.T) {
	ns := newNamespace(t)
	l := ns.listen(t)
	done := make(chan error)
	go func() {
		_, err := l.Next(time.Time{})
		done <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrLost) {
		t.Errorf("Next() ended with %v", err)
	}
}

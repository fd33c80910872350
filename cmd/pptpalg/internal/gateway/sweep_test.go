package gateway

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
)

func TestRest(t *testing.T) {
	tests := []struct {
		name             string
		s                sweeper
		pressing, wanted bool
		want             time.Duration
	}{
		{"all is well", sweeper{worked: time.Millisecond}, false, false, auditInterval},
		{"all is well, large table", sweeper{worked: 100 * time.Millisecond}, false, false, 150 * time.Second},
		{"counts are read", sweeper{worked: time.Millisecond}, false, true, tick},
		{"counts are read, large table", sweeper{worked: 100 * time.Millisecond}, false, true, 20 * time.Second},
		{"no events", sweeper{worked: time.Millisecond, deaf: true}, false, false, tick},
		{"no events, large table", sweeper{worked: 100 * time.Millisecond, deaf: true}, false, false, 10 * time.Second},
		{"something was to mend", sweeper{worked: time.Millisecond}, true, false, tick},
		{"something was to mend, large table", sweeper{worked: 100 * time.Millisecond}, true, false, 5 * time.Second},
		{"events were lost", sweeper{worked: 100 * time.Millisecond, lost: true}, true, true, 200 * time.Millisecond},
	}
	for _, tt := range tests {
		if got := tt.s.rest(tt.pressing, tt.wanted); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestIdleRest: a call that is idle is ended soon, and audits leave the processor to others.
func TestIdleRest(t *testing.T) {
	for _, tt := range []struct {
		name         string
		worked, idle time.Duration
		want         time.Duration
	}{
		{"an audit takes no time", time.Millisecond, time.Second, tick},
		{"as long as calls may be idle", 100 * time.Millisecond, time.Minute, time.Minute},
		{"audits take long", 100 * time.Millisecond, 3 * time.Second, 5 * time.Second},
	} {
		s := sweeper{worked: tt.worked}
		if got := s.idleRest(tt.idle); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// fakeEvents is a listener that has so many things to tell, and then nothing more.
type fakeEvents []any

func (f *fakeEvents) Next(time.Time) ([]conntrack.Destroyed, error) {
	if len(*f) == 0 {
		return nil, os.ErrDeadlineExceeded
	}
	next := (*f)[0]
	*f = (*f)[1:]
	if err, ok := next.(error); ok {
		return nil, err
	}
	return next.([]conntrack.Destroyed), nil
}

func (*fakeEvents) Close() error { return nil }

// endless is a listener that always has something to tell.
type endless struct{ fakeEvents }

func (endless) Next(time.Time) ([]conntrack.Destroyed, error) {
	return make([]conntrack.Destroyed, 500), nil
}

// TestHearEndless: events that never end do not keep the reconciler from its work.
func TestHearEndless(t *testing.T) {
	g := Gateway{listener: new(endless)}
	if got, err := g.hear(t.Context(), time.Now().Add(time.Minute)); len(got) < hearMost || err != nil {
		t.Errorf("%d events, %v", len(got), err)
	}
}

func TestHear(t *testing.T) {
	one, two := conntrack.Destroyed{By: 1}, conntrack.Destroyed{By: 2}
	broken := errors.New("no socket")
	tests := []struct {
		name   string
		events fakeEvents
		want   []conntrack.Destroyed
		lost   bool
		err    error
	}{
		{"nothing", nil, nil, false, nil},
		{"nothing of ours", fakeEvents{[]conntrack.Destroyed{}}, nil, false, nil},
		{"together", fakeEvents{[]conntrack.Destroyed{one}, []conntrack.Destroyed{two}}, []conntrack.Destroyed{one, two}, false, nil},
		{"some are lost", fakeEvents{[]conntrack.Destroyed{one}, conntrack.ErrLost, []conntrack.Destroyed{two}}, []conntrack.Destroyed{one, two}, true, nil},
		{"the socket fails", fakeEvents{[]conntrack.Destroyed{one}, broken}, []conntrack.Destroyed{one}, false, broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := Gateway{listener: &tt.events}
			got, err := g.hear(t.Context(), time.Now().Add(time.Minute))
			if !slices.Equal(got, tt.want) || g.sweeper.lost != tt.lost || !errors.Is(err, tt.err) {
				t.Errorf("%+v, lost: %v, %v", got, g.sweeper.lost, err)
			}
		})
	}
}

// TestEvents: what an event has the reconciler do, that has just had an audit.
func TestEvents(t *testing.T) {
	control := conntrack.Destroyed{Connection: connection}
	strange := calls.Flow{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Key: 5}
	other := connection
	other.Original.Src = netip.AddrPortFrom(other.Original.Src.Addr(), 9)
	tests := []struct {
		name  string
		path  datapath.Name
		step  func(r *rig) []conntrack.Destroyed
		want  []string
		calls int
		audit bool
	}{
		{"nothing", datapath.Kernel, func(*rig) []conntrack.Destroyed { return nil }, nil, 1, false},
		{"a flow is deleted", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			gone := r.kernel.flows[0]
			r.kernel.flows = slices.Clone(r.kernel.flows[1:])
			return []conntrack.Destroyed{{Flow: gone}}
		}, []string{"install"}, 1, false},
		{"a flow whose mark others have changed", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			gone := r.kernel.flows[0]
			r.kernel.flows, gone.Mark = slices.Clone(r.kernel.flows[1:]), 7
			return []conntrack.Destroyed{{Flow: gone}}
		}, []string{"install"}, 1, false},
		{"the connection's entry is deleted", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			r.kernel.gone = true
			return []conntrack.Destroyed{control, control}
		}, []string{"revive"}, 1, false},
		{"the connection's entry is deleted", datapath.Queue, func(r *rig) []conntrack.Destroyed {
			r.kernel.gone = true
			return []conntrack.Destroyed{control}
		}, []string{"revive"}, 1, false},
		{"all of a call", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			gone := []conntrack.Destroyed{{Flow: r.kernel.flows[0]}, control, {Flow: r.kernel.flows[1]}}
			r.kernel.flows, r.kernel.gone = nil, true
			return gone
		}, []string{"revive", "install", "install"}, 1, false},
		{"somebody else's", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			r.kernel.flows, r.kernel.gone = nil, true
			return []conntrack.Destroyed{{Flow: strange}, {Connection: other}}
		}, nil, 1, false},
		{"it is there again", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			return []conntrack.Destroyed{control, {Flow: r.kernel.flows[0]}}
		}, nil, 1, false},
		{"its place is taken", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			r.kernel.gone, r.kernel.taken = true, true
			return []conntrack.Destroyed{control}
		}, []string{"revive", "remove", "remove"}, 0, false},
		{"the canary", datapath.Queue, func(r *rig) []conntrack.Destroyed {
			r.kernel.flows = nil
			return []conntrack.Destroyed{{Flow: canary}}
		}, []string{"install"}, 1, true},
		{"events were lost", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			r.kernel.flows, r.kernel.gone, r.sweeper.lost = nil, true, true
			return nil
		}, []string{"revive", "install", "install"}, 1, true},
		{"the kernel does not tell", datapath.Kernel, func(r *rig) []conntrack.Destroyed {
			r.kernel.err = errKernel
			return []conntrack.Destroyed{control}
		}, nil, 1, false},
	}
	for _, tt := range tests {
		t.Run(string(tt.path)+"/"+tt.name, func(t *testing.T) {
			r := newRigOver(t, t.TempDir(), tt.path)
			r.call()
			r.audit()
			before := r.sweeper.ended
			r.sweeper.repaired, r.sweeper.deaf, r.sweeper.worked = false, false, 0
			r.kernel.done = nil
			r.turnTo(tt.step(r))
			if diff := cmp.Diff(tt.want, r.kernel.done); diff != "" || len(r.Calls()) != tt.calls {
				t.Errorf("%d calls, done (-want +got):\n%s", len(r.Calls()), diff)
			}
			if r.sweeper.ended.After(before) != tt.audit {
				t.Errorf("audit: %v", r.sweeper.ended.After(before))
			}
		})
	}
}

// TestStorm: when much is gone, all is looked at once, and not each connection.
func TestStorm(t *testing.T) {
	for n, audit := range map[int]bool{lookMost: false, lookMost + 1: true} {
		r := newRig(t, t.TempDir())
		r.audit()
		records := silentCalls(n)
		r.editor = alg.NewEditor(r.table, 2*lookMost)
		if refused := r.editor.Restore(records, time.Now()); refused > 0 {
			t.Fatal(refused, "are refused")
		}
		before := r.sweeper.ended
		r.sweeper.deaf, r.sweeper.worked = false, 0
		gone := make([]conntrack.Destroyed, n)
		for i := range gone {
			gone[i].Connection = records[i].Connection
		}
		r.turnTo(gone)
		if got := r.sweeper.ended.After(before); got != audit {
			t.Errorf("%d connections: audit: %v", n, got)
		}
	}
}

// nextTick is the turn that is due when nothing is heard.
func (r *rig) nextTick() {
	r.sweeper.ticked = time.Time{}
	r.turnTo(nil)
}

// TestWaits: a lost connection whose address is away is looked at in every tick.
func TestWaits(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.audit()
	r.kernel.gone, r.kernel.addrs, r.kernel.done = true, nil, nil
	r.turnTo([]conntrack.Destroyed{{Connection: connection}})
	r.nextTick()
	if len(r.kernel.done) != 0 || len(r.Calls()) != 1 {
		t.Fatalf("while it is away: %v, %d calls", r.kernel.done, len(r.Calls()))
	}
	r.kernel.addrs = []netip.Addr{public}
	r.turnTo(nil)
	if len(r.kernel.done) != 0 {
		t.Errorf("before the tick: %v", r.kernel.done)
	}
	r.nextTick()
	r.nextTick()
	if !slices.Equal(r.kernel.done, []string{"revive"}) || len(r.Calls()) != 1 {
		t.Errorf("when it is back: %v, %d calls", r.kernel.done, len(r.Calls()))
	}
}

// TestDoubt: whether a RST ends a connection that was joined in its middle the kernel tells,
// and it is asked until it has surely seen the RST.
func TestDoubt(t *testing.T) {
	for _, closed := range []bool{true, false} {
		r := newRig(t, t.TempDir())
		r.call()
		r.audit()
		rst := segment(t, connection.Original, [2]uint32{r.seq[0] + 100, r.seq[1]}, nil)
		rst[20+13] = byte(packet.RST | packet.ACK)
		r.turn.began = time.Now()
		r.edit(r.parse(rst), new(nfqueue.Packet))
		r.nextTick()
		if len(r.Calls()) != 1 {
			t.Error("the call has ended before the kernel has seen the RST")
		}
		r.kernel.closed = closed
		r.lookAt(r.editor.Look(r.editor.Doubted(time.Now().Add(time.Second)), time.Now()))
		if got := len(r.Calls()) == 0; got != closed {
			t.Errorf("the kernel has it as closed: %v; the call has ended: %v", closed, got)
		}
	}
}

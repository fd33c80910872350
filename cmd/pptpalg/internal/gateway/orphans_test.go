package gateway

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// toward returns the flow to an end of a connection.
func toward(c calls.Connection, side calls.Side, own, public pptp.CallID) calls.Flow {
	return flowOf(&c, side, calls.LegRecord{Known: true, Own: own, Public: public})
}

func TestClaims(t *testing.T) {
	const client, server = calls.Initiator, calls.Responder
	again := connection // the same ends, over another port
	again.Original.Src = netip.AddrPortFrom(connection.Original.Src.Addr(), 4001)
	again.Reply.Dst = netip.AddrPortFrom(connection.Reply.Dst.Addr(), 4001)
	other := connection
	other.Original.Src = netip.MustParseAddrPort("10.0.0.11:4000")
	other.Reply.Dst = netip.AddrPortFrom(connection.Reply.Dst.Addr(), 4002)
	plain := untouched(inside, public)
	zoned, closing, helped := connection, connection, connection
	zoned.Zone, closing.Closing, helped.Helper = 5, true, "pptp"
	known := func(own, public pptp.CallID) calls.LegRecord {
		return calls.LegRecord{Known: true, Own: own, Public: public}
	}
	tests := []struct {
		name  string
		live  []calls.Connection
		flows []calls.Flow
		want  [][2]calls.LegRecord
	}{
		{"a call", []calls.Connection{connection}, []calls.Flow{toward(connection, client, 7, 255), toward(connection, server, 9, 9)},
			[][2]calls.LegRecord{{known(7, 255), known(9, 9)}}},
		{"a call that is being set up", []calls.Connection{connection}, []calls.Flow{toward(connection, client, 7, 255)}, [][2]calls.LegRecord{{client: known(7, 255)}}},
		{"two calls on a connection", []calls.Connection{connection},
			[]calls.Flow{toward(connection, client, 7, 255), toward(connection, client, 8, 8), toward(connection, server, 9, 9), toward(connection, server, 10, 10)},
			[][2]calls.LegRecord{{client: known(7, 255)}, {client: known(8, 8)}, {server: known(9, 9)}, {server: known(10, 10)}}},
		{"two clients", []calls.Connection{connection, other},
			[]calls.Flow{toward(connection, client, 7, 255), toward(connection, server, 9, 9), toward(other, client, 7, 7), toward(other, server, 10, 10)},
			[][2]calls.LegRecord{{known(7, 255), known(9, 9)}, {known(7, 7), known(10, 10)}}},
		{"two connections", []calls.Connection{connection, again}, []calls.Flow{toward(connection, client, 7, 255), toward(connection, server, 9, 9)}, nil},
		{"no connection", nil, []calls.Flow{toward(connection, client, 7, 255)}, nil},
		{"another client's", []calls.Connection{other}, []calls.Flow{toward(connection, client, 7, 255)}, nil},
		{"in another zone", []calls.Connection{zoned}, []calls.Flow{toward(connection, client, 7, 255)}, nil},
		{"that NAT does not touch", []calls.Connection{plain}, []calls.Flow{toward(plain, client, 7, 7), toward(plain, server, 9, 9)},
			[][2]calls.LegRecord{{known(7, 7), known(9, 9)}}},
		{"over", []calls.Connection{closing}, []calls.Flow{toward(connection, client, 7, 255)}, nil},
		{"the kernel helper's", []calls.Connection{helped}, []calls.Flow{toward(connection, client, 7, 255)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			have := make(datapath.Flows)
			for _, f := range tt.flows {
				have[f.Unmarked()] = calls.Traffic{}
			}
			var got [][2]calls.LegRecord
			for i, r := range claims(have, tt.live, 100, time.Now()) {
				if r.Number != uint64(101+i) {
					t.Errorf("number %d", r.Number)
				}
				got = append(got, r.Legs)
			}
			order := func(a, b [2]calls.LegRecord) int {
				return cmp.Or(cmp.Compare(a[1].Own, b[1].Own), cmp.Compare(a[0].Own, b[0].Own))
			}
			slices.SortFunc(got, order)
			slices.SortFunc(tt.want, order)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// orphaned is a daemon whose kernel has the entries of a call, and whose journal is empty.
func orphaned(t *testing.T, path datapath.Name, prepare func(*fakeKernel)) *rig {
	t.Helper()
	r := newRigOver(t, t.TempDir(), path)
	r.kernel.flows = []calls.Flow{toward(connection, calls.Initiator, 7, 7), toward(connection, calls.Responder, 9, 9)}
	prepare(r.kernel)
	r.adopt()
	r.clearKernel()
	r.compare()
	return r
}

// TestOrphansAreTakenUp: a call is known again, by both data paths, and ends with its
// connection.
func TestOrphansAreTakenUp(t *testing.T) {
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		r := orphaned(t, path, func(*fakeKernel) {})
		if all := r.Calls(); len(all) != 1 || all[0].State != calls.Established || !all[0].PNS.Known || !all[0].PAC.Known {
			t.Fatalf("%s: calls %+v", path, all)
		}
		left := slices.DeleteFunc(slices.Clone(r.kernel.flows), func(f calls.Flow) bool { return f == canary })
		if path == datapath.Kernel && len(left) != 2 || path == datapath.Queue && (len(left) != 0 || r.visits().Flows() != 2) {
			t.Errorf("%s: the kernel has %v", path, left)
		}
		if r.orphans.count.Load() != 0 {
			t.Errorf("%s: %d orphans are left", path, r.orphans.count.Load())
		}
		again := newRigOver(t, t.TempDir(), path)
		again.kernel.flows = r.kernel.flows
		r.stop()
		again.cfg.StateDir = r.cfg.StateDir
		again.stop()
		if err := again.openStore(); err != nil || len(again.Calls()) != 1 {
			t.Errorf("%s: the journal has %d calls, %v", path, len(again.Calls()), err)
		}
		t.Cleanup(func() { _ = again.store.Close() })
	}
}

// TestOrphansOfNobody: without a control connection the IDs are reserved for a while, then the
// entries are deleted, and the IDs rest.
func TestOrphansOfNobody(t *testing.T) {
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		r := orphaned(t, path, func(k *fakeKernel) { k.gone = true })
		toClient := toward(connection, calls.Initiator, 7, 7)
		if len(r.Calls()) != 0 || r.orphans.count.Load() != 2 || r.table.Reserve(toClient) {
			t.Fatalf("%s: %d calls, %d orphans", path, len(r.Calls()), r.orphans.count.Load())
		}
		soon, late := time.Now().Add(orphanPatience-time.Second), time.Now().Add(orphanPatience)
		if r.watchOrphans(nil, soon); !slices.Contains(r.kernel.flows, toClient) {
			t.Errorf("%s: it is deleted too early", path)
		}
		if r.watchOrphans(nil, late); slices.Contains(r.kernel.flows, toClient) || r.table.RestingIDs() != 0 {
			t.Errorf("%s: it is not deleted", path)
		}
		if r.watchOrphans(nil, late); r.table.RestingIDs() != 1 || r.orphans.count.Load() != 0 {
			t.Errorf("%s: %d IDs rest, %d orphans", path, r.table.RestingIDs(), r.orphans.count.Load())
		}
	}
}

// TestOrphansStay while there is a control connection between their ends, and no longer than
// their entries.
func TestOrphansStay(t *testing.T) {
	r := orphaned(t, datapath.Kernel, func(k *fakeKernel) { k.gone = true })
	again := connection
	again.Original.Src = netip.AddrPortFrom(connection.Original.Src.Addr(), 4001)
	now := time.Now()
	for range 5 {
		now = now.Add(orphanPatience / 2)
		r.watchOrphans([]calls.Connection{again}, now)
	}
	if len(r.kernel.flows) != 2 || r.orphans.count.Load() != 2 {
		t.Errorf("the kernel has %v", r.kernel.flows)
	}
	r.kernel.flows = r.kernel.flows[1:] // somebody deletes one
	r.watchOrphans([]calls.Connection{again}, now)
	if r.orphans.count.Load() != 1 || r.table.RestingIDs() != 1 {
		t.Errorf("%d orphans, %d IDs rest", r.orphans.count.Load(), r.table.RestingIDs())
	}
}

// TestNoOrphans: what the journal explains is nobody else's, nor what it says is over; and a
// tunnel is no call.
func TestNoOrphans(t *testing.T) {
	dir := t.TempDir()
	before := newRig(t, dir)
	before.call()
	before.stop()
	r := newRig(t, dir)
	r.kernel.flows = before.kernel.flows
	over := toward(connection, calls.Initiator, 70, 70)
	r.kernel.flows = append(r.kernel.flows, over)
	r.doomed[over] = struct{}{}
	tunnel := toward(connection, calls.Responder, 0, 0)
	r.kernel.lent = []calls.Flow{tunnel}
	if r.adopt(); len(r.Calls()) != 1 || r.orphans.count.Load() != 0 {
		t.Errorf("%d calls, %d orphans", len(r.Calls()), r.orphans.count.Load())
	}
	if r.compare(); slices.Contains(r.kernel.flows, over) {
		t.Error("what is over was taken for an orphan")
	}
}

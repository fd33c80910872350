package admin

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
)

// TestCluster: the commands reach a gateway of a cluster, and say so where there is none.
func TestCluster(t *testing.T) {
	public := netip.MustParseAddr("198.51.100.1")
	want := Cluster{Name: "a", Degraded: true, Members: []ClusterMember{{Slot: 1, Name: "b"}}, Addresses: []ClusterAddress{{Address: "198.51.100.1", Owner: "b", Calls: 3}}}
	var moved []string
	control := &ClusterControl{
		Status: func() Cluster { return want },
		Take:   func(a netip.Addr) error { moved = append(moved, "take "+a.String()); return nil },
		Drop:   func(netip.Addr) error { return errors.New("cannot drop") },
		Owners: func() func(*calls.View) (string, bool) {
			return func(v *calls.View) (string, bool) { return "b", v.Number == 2 }
		},
	}
	all := func() []calls.View { return []calls.View{{Number: 1}, {Number: 2}} }
	for _, c := range []*ClusterControl{control, nil} {
		dir := t.TempDir()
		s, err := Listen(Config{StateDir: dir, Cluster: c}, prometheus.NewRegistry(), all)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		client := Client{StateDir: dir}
		shown, err := client.Calls(ctx)
		if err != nil {
			t.Fatal(err)
		}
		st, err := client.Cluster(ctx)
		if c == nil {
			if !errors.Is(err, errAlone) || shown[0].Owner != "" {
				t.Errorf("alone: %v, %+v", err, shown[0])
			}
		} else {
			if diff := cmp.Diff(want, st); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if shown[0].Owner != "b" || shown[0].OwnedHere || !shown[1].OwnedHere {
				t.Errorf("owners: %+v", shown)
			}
			if err := client.Move(ctx, "take", public); err != nil || len(moved) != 1 || moved[0] != "take 198.51.100.1" {
				t.Errorf("take: %v, %v", err, moved)
			}
			if err := client.Move(ctx, "drop", public); err == nil || !strings.Contains(err.Error(), "cannot drop") {
				t.Errorf("drop: %v", err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

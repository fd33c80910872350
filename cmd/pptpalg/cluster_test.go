package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/schema"
)

func TestPrintCluster(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var out bytes.Buffer
	err := printCluster(&out, &admin.Cluster{
		Name: "a", Whole: true, Pending: 2, Revision: 70,
		Members:   []admin.ClusterMember{{Slot: 0, Name: "a", Version: "1.2", Since: schema.At(since)}, {Slot: 1, Name: "b", Version: "1.2", Since: schema.At(since)}},
		Addresses: []admin.ClusterAddress{{Address: "198.51.100.1", Owner: "a", Mine: true, Here: true, Calls: 3}, {Address: "198.51.100.2"}},
	})
	want := `GATEWAY  VERSION  SINCE                SLOT
a *      1.2      2026-01-02 03:04:05  0
b        1.2      2026-01-02 03:04:05  1

ADDRESS       OWNER  HERE  CALLS
198.51.100.1  a *    yes   3
198.51.100.2  -      no    0

state                  ok
calls not yet written  2
revision               70
lag                    0.0 s
`
	if diff := cmp.Diff(want, out.String()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestPrintCallsOfACluster(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	call := admin.Call{
		PNS: admin.Party{Address: "10.0.0.1", PublicAddress: "198.51.100.1"}, PAC: admin.Party{Address: "203.0.113.9", PublicAddress: "203.0.113.9"},
		State: "requested", Since: schema.At(now), Control: admin.Control{Src: "10.0.0.1:4000", Dst: "203.0.113.9:1723"},
	}
	mine := call
	call.Owner, mine.Owner, mine.OwnedHere = "b", "a", true
	var out bytes.Buffer
	err := callTable(rowsOf([]admin.Call{call, mine}), now, callColumns{}).print(&out, terminal{})
	want := `CALL  CLIENT      PUBLIC          SERVER         STATE      AGE  TO CLIENT  TO SERVER  OWNER
0     10.0.0.1/-  198.51.100.1/-  203.0.113.9/-  requested  0s   -          -          b
0     10.0.0.1/-  198.51.100.1/-  203.0.113.9/-  requested  0s   -          -          a *
`
	if diff := cmp.Diff(want, out.String()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

package conntrack

import (
	"strings"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// TestOneWayZones: two tenants that only their zones tell apart, by CT --zone-orig as they come in,
// call one server behind one address. Each entry is in the zone of its packets, and both calls
// carry both ways, whatever their IDs.
func TestOneWayZones(t *testing.T) {
	for _, tt := range []struct {
		name        string
		own, server [2]pptp.CallID // of each tenant's call
	}{
		{"other IDs", [2]pptp.CallID{7, 8}, [2]pptp.CallID{41, 42}},
		{"one client ID", [2]pptp.CallID{7, 7}, [2]pptp.CallID{41, 42}},
		{"all IDs 0", [2]pptp.CallID{0, 0}, [2]pptp.CallID{0, 0}},
		{"one ID of the server's", [2]pptp.CallID{7, 8}, [2]pptp.CallID{41, 41}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			c := ns.dial(t)
			var in, out [2]calls.Flow
			for i := range in {
				in[i], out[i] = toClient, toServer // the same addresses
				in[i].Key, in[i].NewKey = pptp.CallID(777+i), tt.own[i]
				out[i].Key, out[i].NewKey = tt.server[i], tt.server[i]
				out[i].Zone, out[i].OneWay = uint16(11+i), true
			}
			all := []calls.Flow{in[0], out[0], in[1], out[1]}
			mustApply(t, c, changes(calls.Install, all...))
			have := make(map[calls.Flow]calls.Traffic)
			if _, err := c.Traffic(have, nil); err != nil {
				t.Fatal(err)
			}
			for _, f := range all {
				if _, there := have[f.Unmarked()]; !there {
					t.Errorf("%v in zone %d is not there", f, f.Zone)
				}
				mustCreate(t, c, f) // stays
			}
			if n := len(dumpOracle(t, ns)); n != 4 {
				t.Errorf("%d entries", n)
			}
			mustApply(t, c, changes(calls.Remove, all[0], all[1]))
			mustDelete(t, c, all[2])
			mustDelete(t, c, all[3])
			if out := ns.run(t, "conntrack -L -p gre"); strings.Contains(out, "gre") {
				t.Errorf("left:\n%s", out)
			}
		})
	}
}

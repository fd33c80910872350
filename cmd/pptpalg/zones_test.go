package main

import (
	"fmt"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestZonesOfDirections: clients behind one public address whose connections are in conntrack zones, and use
// one Call ID towards one server. Their calls survive a flush and the daemon's death.
func TestZonesOfDirections(t *testing.T) { overDataPaths(t, testZonesOfDirections) }

func testZonesOfDirections(t *testing.T, path datapath.Name) {
	for _, tt := range []struct {
		name string
		zone func(client int) string // the rule for what a client sends, "" for none
		all  string                  // the rule for what anybody sends
	}{
		{"of the original direction", func(i int) string { return fmt.Sprintf("--zone-orig %d", 11+i) }, ""},
		{"of one client's original direction", func(i int) string { return []string{"--zone-orig 11", ""}[i] }, ""},
		{"of both directions", func(int) string { return "" }, "--zone 11"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := buildGateway(t, path, masquerade(2))
			zone := func(rule string, match ...string) {
				if rule != "" {
					args := append([]string{"-t", "raw", "-A", "PREROUTING"}, match...)
					must(t, g.Gateway.IPTables(t.Context(), append(args, "-j", "CT", rule[:len(rule)-3], rule[len(rule)-2:])...))
				}
			}
			zone(tt.all)
			for i, h := range g.Inside {
				zone(tt.zone(i), "-i", "lan", "-s", h.Addr.String())
			}
			g.start()
			s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
			clients := []*lab.Client{g.client(0), g.client(1)}
			calls := []*lab.Call{callOn(t, clients[0], 7), callOn(t, clients[1], 7)}
			exchange(t, calls...)
			g.flush()
			g.recovered(calls...)
			g.kill()
			g.start()
			g.recovered(calls...)
			must(t, s.Sessions()[0].Send(lab.NewEchoRequest(1)))
			_, err := clients[0].Expect(lab.EchoRequest, lab.Patience)
			must(t, err)
			for i, c := range clients {
				must(t, c.Control.Close())
				g.wantCalls(1 - i)
				g.wantEntriesOfCalls(2 - 2*i)
			}
		})
	}
}

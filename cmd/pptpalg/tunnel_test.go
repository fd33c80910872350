package main

import (
	"strings"
	"syscall"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Tunnels of plain GRE between hosts that also have calls, by which the kernel knows packets
// to Call ID 0 and those of a tunnel as the same.

func (g *testGateway) tunnel(near *lab.Host) *lab.Tunnel {
	g.t.Helper()
	u, err := lab.StartTunnel(near, lab.GatewayPublic, g.Outside[0])
	must(g.t, err)
	closeAfter(g.t, u)
	return u
}

// TestTunnels: a tunnel goes on before, during and after calls with Call ID 0, and so do the
// calls.
func TestTunnels(t *testing.T) {
	for _, tt := range []struct {
		name string
		near func(g *testGateway) *lab.Host
		late bool // the tunnel begins during the first call
		own  pptp.CallID
		peer pptp.CallID
	}{
		{"the gateway's, server's ID 0", func(g *testGateway) *lab.Host { return g.Gateway }, false, 7, 0},
		{"the gateway's, client's ID 0", func(g *testGateway) *lab.Host { return g.Gateway }, false, 0, 900},
		{"the gateway's, both IDs 0", func(g *testGateway) *lab.Host { return g.Gateway }, false, 0, 0},
		{"the gateway's, both IDs 0, later", func(g *testGateway) *lab.Host { return g.Gateway }, true, 0, 0},
		{"the client's, client's ID 0", func(g *testGateway) *lab.Host { return g.Inside[0] }, false, 0, 900},
		{"the client's, client's ID 0, later", func(g *testGateway) *lab.Host { return g.Inside[0] }, true, 0, 900},
		{"the client's, both IDs 0", func(g *testGateway) *lab.Host { return g.Inside[0] }, false, 0, 0},
		{"another client's, both IDs 0", func(g *testGateway) *lab.Host { return g.Inside[1] }, false, 0, 0},
		{"another client's, both IDs 0, later", func(g *testGateway) *lab.Host { return g.Inside[1] }, true, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, datapath.Kernel, masquerade(2))
			s := g.server(lab.Behaviour{NextID: lab.Fixed(tt.peer)})
			u := g.tunnel(tt.near(g))
			carry := func(when string) {
				if err := u.Carry(lab.Patience); err != nil {
					t.Errorf("%s: %v\n%s", when, err, g.entries())
				}
			}
			if !tt.late {
				carry("before the call")
			}
			for range 2 {
				c := g.client(0)
				call := callOn(t, c, tt.own)
				carry("during the call")
				exchange(t, call)
				carry("after the call carried GRE")
				must(t, c.Close())
				g.wantCalls(0)
				carry("after the call")
			}
			if n := len(s.Unmatched()); n != 0 {
				t.Errorf("%d packets belonged to no call", n)
			}
			if lacking := g.metric("pptpalg_conntrack_entries_missing"); lacking != "0" && lacking != "" {
				t.Errorf("%s flows lack their entries", lacking)
			}
		})
	}
}

// TestUpgradeOfEntries: a daemon takes up a call whose entry an earlier release has made, one for
// both its flows. The call goes on, and the tunnel can begin.
func TestUpgradeOfEntries(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1))
	g.server(lab.Behaviour{NextID: lab.Fixed(0)})
	c := g.client(0)
	call := callOn(t, c, 0)
	exchange(t, call)
	must(t, g.daemon.Signal(syscall.SIGTERM))
	must(t, g.daemon.Wait(lab.Patience))

	client, server := c.Host.Addr.String(), c.Server.String()
	public := publicOf(t, g, server)
	_, err := g.Gateway.Run(t.Context(), "conntrack", "-D", "-p", "gre")
	must(t, err)
	_, err = g.Gateway.Run(t.Context(), "conntrack", "-I", "-p", "gre", "-t", "864000", "-s", server, "-d", lab.GatewayPublic.String(),
		"--srckey", "0", "--dstkey", public, "--reply-src", lab.GatewayPublic.String(), "--reply-dst", server,
		"--reply-key-src", "0", "--reply-key-dst", "0", "-g", client, "-u", "SEEN_REPLY,ASSURED,FIXED_TIMEOUT")
	must(t, err)
	exchange(t, call)

	g.start()
	if n := strings.Count(g.entries(), "zone-reply="); n != 2 {
		t.Errorf("%d entries are as they should be, want 2:\n%s", n, g.entries())
	}
	exchange(t, call)
	u := g.tunnel(g.Gateway)
	must(t, u.Carry(lab.Patience))
	must(t, c.Close())
	g.wantCalls(0)
	g.wantEntries(1) // the tunnel's
	must(t, u.Carry(lab.Patience))
}

// publicOf returns the public Call ID by which the server knows the one client, as the
// conntrack tool shows it.
func publicOf(t *testing.T, g *testGateway, server string) string {
	t.Helper()
	for line := range strings.Lines(g.entries()) {
		_, rest, found := strings.Cut(line, "src="+server+" dst="+lab.GatewayPublic.String()+" srckey=0x0 dstkey=")
		if key, _, _ := strings.Cut(rest, " "); found && key != "0x0" {
			return key
		}
	}
	t.Fatalf("no entry towards the client:\n%s", g.entries())
	return ""
}

package main

import (
	"bytes"
	"context"
	"net/netip"
	"strconv"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Ends that speak Multipath TCP (RFC 8684), by which messages may come in another connection
// than the one that they began in.

// TestMultipath: such ends speak plain TCP through the daemon, and are edited as all are; with
// checksums over their data and without.
func TestMultipath(t *testing.T) { overDataPaths(t, testMultipath) }

func testMultipath(t *testing.T, path datapath.Name) {
	for _, checksums := range []string{"0", "1"} {
		t.Run("checksums "+checksums, func(t *testing.T) {
			g := buildGateway(t, path, masquerade(2))
			multipath(t, checksums, g.Inside[0], g.Inside[1], g.Outside[0])
			twoWays(t, g)
			g.start()
			s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
			var calls []*lab.Call
			for i := range g.Inside {
				c := g.client(i)
				calls = append(calls, callOn(t, c, 7))
				if speaksMultipath(t, c.Control) {
					t.Errorf("client %d speaks Multipath TCP", i)
				}
			}
			exchange(t, calls...)
			if seen := s.Calls(); len(seen) != 2 || seen[0].Peer == seen[1].Peer {
				t.Errorf("the server knows the calls as %+v", seen)
			}
			if n, _ := strconv.Atoi(g.metric(`pptpalg_packets_total{reason="multipath",verdict="edited"}`)); n < 2 {
				t.Errorf("%d handshakes are counted, want 2 at least", n)
			}
			joinsNothing(t, g)
		})
	}
}

// multipath has hosts speak Multipath TCP, and use every way there is.
func multipath(t *testing.T, checksums string, hosts ...*lab.Host) {
	t.Helper()
	for _, h := range hosts {
		h.Multipath = true
		if err := h.SetSysctl("net.mptcp.enabled", "1"); err != nil {
			t.Skip("the kernel has no Multipath TCP: ", err)
		}
		must(t, h.SetSysctl("net.mptcp.checksum_enabled", checksums))
		_, err := h.Run(t.Context(), "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
		must(t, err)
	}
	second := netip.MustParseAddr("10.77.0.70").String()
	_, err := hosts[0].Run(t.Context(), "ip", "address", "add", second+"/24", "dev", "eth0")
	must(t, err)
	_, err = hosts[0].Run(t.Context(), "ip", "mptcp", "endpoint", "add", second, "dev", "eth0", "subflow")
	must(t, err)
}

// twoWays wants a connection without the daemon to be of Multipath TCP, and to have a second
// way: else the test would show nothing.
func twoWays(t *testing.T, g *testGateway) {
	t.Helper()
	at := netip.AddrPortFrom(g.Outside[0].Addr, lab.Port)
	l, err := g.Outside[0].Listen(at)
	must(t, err)
	defer l.Close()
	c, err := g.Inside[0].Dial(context.Background(), netip.AddrPort{}, at)
	must(t, err)
	defer c.Close()
	theirs, err := l.Accept()
	must(t, err)
	defer theirs.Close()
	if ours, err := c.MultipathTCP(); !ours || err != nil {
		t.Fatalf("the client does not speak Multipath TCP: %v", err)
	}
	_, err = c.Write([]byte("for the handshake to be over"))
	must(t, err)
	must(t, lab.Poll(lab.Patience, func() bool { return ways(t, g.Inside[0]) == 2 }))
}

// ways returns how many TCP connections a host has to the port.
func ways(t *testing.T, h *lab.Host) int {
	t.Helper()
	out, err := h.Run(t.Context(), "ss", "-Htn", "state", "established", "dport = :"+strconv.Itoa(lab.Port))
	must(t, err)
	return bytes.Count([]byte(out.Stdout), []byte("\n"))
}

func speaksMultipath(t *testing.T, c *lab.Control) bool {
	t.Helper()
	yes, err := c.Conn().MultipathTCP()
	must(t, err)
	return yes
}

// joinsNothing sends a SYN that would add a way to a connection: what arrives asks for a
// connection of its own. There is no second way for what was edited before.
func joinsNothing(t *testing.T, g *testGateway) {
	t.Helper()
	if n := ways(t, g.Inside[0]); n != 1 {
		t.Errorf("the client has %d ways to the server, want 1", n)
	}
	client, server := g.Inside[1], g.Outside[0]
	from, err := lab.OpenTCP(t.Context(), client, client.Addr)
	must(t, err)
	closeAfter(t, from)
	to, err := lab.OpenTCP(t.Context(), server, server.Addr)
	must(t, err)
	closeAfter(t, to)
	join := lab.Segment{
		Src: netip.AddrPortFrom(client.Addr, 40000), Dst: netip.AddrPortFrom(server.Addr, lab.Port),
		Seq: 4711, Flags: lab.SYN, Window: 1000,
		Options: []byte{2, 4, 5, 0xb4, 30, 12, 0x10, 2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7},
	}
	must(t, from.Send(join))
	got, err := to.Take(lab.Patience, func(s lab.Segment) bool { return s.Seq == join.Seq })
	must(t, err)
	want := []byte{2, 4, 5, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7}
	if !bytes.Equal(got.Options, want) || got.Wrong {
		t.Errorf("the server gets %v, checksum wrong: %v; want options % x", got, got.Wrong, want)
	}
}

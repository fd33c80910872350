package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Kinds of ways to the world, and what happens to them: calls go on when the way is back.

// wanKind is a kind of gateway by its WAN.
type wanKind struct {
	name  string
	start func(*testing.T, datapath.Name) (g *testGateway, calls []*lab.Call)
	dev   string
	// Commands for ip: addresses and routes that do not come back by themselves, and the
	// interface, in the gateway and at the far end.
	addresses, remake, farEnd string
}

// startWAN starts a gateway with addresses of its own on wan, by which rules translate, and has
// two clients call.
func startWAN(o lab.Options, addresses []string, rules ...string) func(*testing.T, datapath.Name) (*testGateway, []*lab.Call) {
	return func(t *testing.T, path datapath.Name) (*testGateway, []*lab.Call) {
		o.Inside, o.Outside = 2, 1
		g := buildGateway(t, path, o)
		for _, a := range addresses {
			must(t, g.Gateway.IPBatch(t.Context(), "addr add "+a+" dev wan\n"))
		}
		for _, r := range rules {
			must(t, g.Gateway.IPTables(t.Context(), append([]string{"-t", "nat"}, strings.Fields(r)...)...))
		}
		g.start()
		g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
		return g, []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	}
}

const remadeWAN = "link add wan type bridge\nlink set port-out0 master wan\nlink set wan up\n"

// addressesOf returns the commands that add addresses.
func addressesOf(all ...string) (commands string) {
	for _, a := range all {
		commands += "addr add " + a + " dev wan\n"
	}
	return commands
}

var wanKinds = []wanKind{
	{
		name: "one address, masquerading", dev: "wan", remake: remadeWAN, addresses: addressesOf("203.0.113.1/24"),
		start: startWAN(masquerade(2), nil),
	},
	{
		name: "several addresses, masquerading", dev: "wan", remake: remadeWAN,
		addresses: addressesOf("203.0.113.1/24", "203.0.113.2/24", "203.0.113.3/32"),
		start:     startWAN(masquerade(2), []string{"203.0.113.2/24", "203.0.113.3/32"}),
	},
	{
		name: "several addresses, SNAT to the second", dev: "wan", remake: remadeWAN,
		addresses: addressesOf("203.0.113.1/24", "203.0.113.2/24"),
		start:     startWAN(masquerade(2), []string{"203.0.113.2/24"}, "-I POSTROUTING -o wan -j SNAT --to-source 203.0.113.2"),
	},
	{
		name: "several addresses, SNAT to one of a range", dev: "wan", remake: remadeWAN,
		addresses: addressesOf("203.0.113.1/24", "203.0.113.2/24", "203.0.113.3/24"),
		start:     startWAN(masquerade(2), []string{"203.0.113.2/24", "203.0.113.3/24"}, "-I POSTROUTING -o wan -j SNAT --to-source 203.0.113.2-203.0.113.3"),
	},
	{
		name: "an address for each client", dev: "wan", remake: remadeWAN,
		addresses: addressesOf("203.0.113.1/24", "203.0.113.100/24", "203.0.113.101/24"),
		start: startWAN(lab.Options{DNAT: lab.DNATAddress, Firewall: true}, nil,
			"-A POSTROUTING -o wan -s 10.77.0.10 -j SNAT --to-source 203.0.113.100", "-A POSTROUTING -o wan -s 10.77.0.11 -j SNAT --to-source 203.0.113.101"),
	},
	{
		name: "two ways by marks", dev: "wan2",
		addresses: "addr add 198.51.100.1/24 dev wan2\nroute replace 192.0.2.0/24 via 198.51.100.10 table 102\n",
		remake:    "link add wan2 type veth peer name eth1 netns %s\nlink set wan2 up\n",
		farEnd:    "link set eth1 up\naddr add 198.51.100.10/24 dev eth1\n",
		start: func(t *testing.T, path datapath.Name) (*testGateway, []*lab.Call) {
			w := startWANs(t, path, "")
			calls := w.call()
			return w.testGateway, append(calls[0], calls[1]...)
		},
	},
}

// TestWANComesBack takes the addresses of each kind of WAN away, or its interface, and gives them
// back, as a line that is dialled anew does.
func TestWANComesBack(t *testing.T) { overDataPaths(t, testWANComesBack) }

func testWANComesBack(t *testing.T, path datapath.Name) {
	for _, k := range wanKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			g, calls := k.start(t, path)
			exchange(t, calls...)
			for _, step := range []func(*testGateway, wanKind){(*testGateway).takesAddresses, (*testGateway).setsDown, (*testGateway).makesAnew} {
				calm()
				step(g, k)
				g.wantRevived(len(calls))
				exchange(t, calls...)
			}
			g.wantGoesOn(calls)
		})
	}
}

// away is how long a way is away.
const away = time.Second

func (g *testGateway) takesAddresses(k wanKind) {
	g.t.Helper()
	must(g.t, g.Gateway.IPBatch(g.t.Context(), "addr flush dev "+k.dev+"\n"))
	pass(away)
	must(g.t, g.Gateway.IPBatch(g.t.Context(), k.addresses))
}

func (g *testGateway) setsDown(k wanKind) {
	g.t.Helper()
	must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set "+k.dev+" down\n"))
	pass(away)
	_, routes, _ := strings.Cut(k.addresses, "route ") // addresses stay
	if routes != "" {
		routes = "route " + routes
	}
	must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set "+k.dev+" up\n"+routes))
}

func (g *testGateway) makesAnew(k wanKind) {
	g.t.Helper()
	must(g.t, g.Gateway.IPBatch(g.t.Context(), "link del "+k.dev+"\n"))
	pass(away)
	remake := k.remake
	if k.farEnd != "" {
		remake = fmt.Sprintf(remake, g.Outside[0].Namespace)
	}
	must(g.t, g.Gateway.IPBatch(g.t.Context(), remake))
	if k.farEnd != "" {
		must(g.t, g.Outside[0].IPBatch(g.t.Context(), k.farEnd))
		must(g.t, g.Gateway.SetSysctl("net.ipv4.conf."+k.dev+".rp_filter", "0"))
	}
	must(g.t, g.Gateway.IPBatch(g.t.Context(), k.addresses))
}

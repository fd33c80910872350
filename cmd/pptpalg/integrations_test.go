package main

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Calls behind firewalls that own the rule set, which is loaded as these programs load it, with
// the pieces of deploy/integrations. firewalld and Shorewall run in "make test-fresh".

// owners are firewalls. The commands for a shell do the same again if they are run again, as at
// a reload.
var owners = []struct {
	name   string
	load   string
	serves bool // TCP port 1723 is forwarded to the first inside host
	kernel bool // it works over data path kernel alone
}{
	{name: "OpenWrt", load: "cat testdata/firewalls/fw4.nft ../../deploy/integrations/openwrt/pptpalg.nft | nft -f -"},
	{name: "VyOS", load: "nft -f testdata/firewalls/vyos.nft"},
	{name: "Docker", load: "sh testdata/firewalls/docker.sh; sed -n s/^ExecStartPost=//p ../../deploy/integrations/docker/pptpalg.conf | sh -e", serves: true},
	// What comes for a container from elsewhere is dropped behind our chain that rewrites it.
	{name: "Docker's nftables", load: "nft -f testdata/firewalls/docker.nft", serves: true, kernel: true},
}

func TestIntegrations(t *testing.T) { overDataPaths(t, testIntegrations) }

func testIntegrations(t *testing.T, path datapath.Name) {
	for _, o := range owners {
		if o.kernel && path != datapath.Kernel {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			g := buildGateway(t, path, lab.Options{Inside: 2, Outside: 1})
			g.shell(o.load)
			g.start()
			g.server(lab.Behaviour{Refuse: true})
			calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
			exchange(t, calls...)
			g.shell(o.load)
			calls = append(calls, callOn(t, g.client(0), 8), callOn(t, g.client(1), 8))
			carried(t, calls...)
			carry(t, calls...)
			if o.serves {
				g.callServerInside()
			}
		})
	}
}

// TestReloadInSteps has a firewall delete its table, the only one with a nat chain, and load it
// anew a moment later, as firewalld does. The kernel takes its NAT hooks away with the last nat
// chain: in between, no call would be translated.
func TestReloadInSteps(t *testing.T) { overDataPaths(t, testReloadInSteps) }

func testReloadInSteps(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, lab.Options{Inside: 2, Outside: 1})
	g.shell("nft flush ruleset; nft -f testdata/firewalls/fw4.nft")
	g.start()
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	g.shell("nft delete table inet fw4")
	if path == datapath.Queue {
		carried(t, calls...) // a packet that waits for the daemon is dropped with the firewall's hooks
	}
	carry(t, calls...)
	g.shell("nft -f testdata/firewalls/fw4.nft")
	carried(t, calls...)
	carry(t, calls...)
}

// callServerInside has an outside host call the first inside host.
func (g *testGateway) callServerInside() {
	g.t.Helper()
	p := pairs(g.t, listen(g.t, g.Inside[0]), at1723(lab.GatewayPublic), g.Outside[0])[0]
	a, b := placed(g.t, p.dialer, 9, p.accepted, pptp.CallID(9))
	converse(g.t, a, b)
}

// shell runs commands on the gateway.
func (g *testGateway) shell(commands string) {
	g.t.Helper()
	_, err := g.Gateway.Run(g.t.Context(), "sh", "-ec", commands)
	must(g.t, err)
}

// carried waits until every call carries packets. Over data path queue some are lost when the
// firewall reloads: those that wait for the daemon, and those that the firewall drops until the
// daemon has heard of that.
func carried(t *testing.T, calls ...*lab.Call) {
	t.Helper()
	for _, c := range calls {
		must(t, lab.Poll(lab.Patience, func() bool { return c.Carries([]byte("again"), silence) == nil }))
	}
}

// TestPieces: what the other programs would read is a policy, and a script.
func TestPieces(t *testing.T) {
	policies, err := filepath.Glob("../../deploy/integrations/firewalld/*.xml")
	must(t, err)
	if len(policies) != 2 {
		t.Errorf("policies of firewalld: %q", policies)
	}
	for _, name := range policies {
		text, err := os.ReadFile(name)
		must(t, err)
		var policy struct {
			XMLName xml.Name `xml:"policy"`
			Target  string   `xml:"target,attr"`
		}
		if err := xml.Unmarshal(text, &policy); err != nil || policy.Target != "CONTINUE" {
			t.Errorf("%s: %+v, %v", name, policy, err)
		}
	}
	if out, err := exec.Command("sh", "-n", "../../deploy/integrations/openwrt/pptpalg.init").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

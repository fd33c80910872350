package main

import (
	"fmt"

	"pptpalg/cmd/internal/lab"
)

// alone is two clients behind one gateway.
var alone = plan{
	network: lab.Options{Inside: 2, Outside: 1, Masquerade: true, Firewall: true},
	needs:   []string{"pptp", "pptpd", "iptables", "ip", "conntrack"},
	steps: []step{
		{"start server and daemon", (*demo).startAlone},
		{"two clients call with one Call ID", (*demo).dial},
		{"exchange packets", (*demo).exchange},
		{"what daemon and kernel show", (*demo).report},
		{"hang up", (*demo).endAlone},
	},
}

// startAlone starts the server and the daemon.
func (d *demo) startAlone() error {
	fmt.Printf(`The network, each box a network namespace of its own:

  pptp-linux %v ──┐
                          ├── gateway, masquerading as %v ── pptpd %v
  pptp-linux %v ──┘   pptpalg run

`, d.Inside[0].Addr, lab.GatewayPublic, d.Outside[0].Addr, d.Inside[1].Addr)
	if err := d.serve(lab.PPTPDOptions{}); err != nil {
		return err
	}
	_, err := d.run("the gateway", d.Gateway)
	return err
}

// report shows what the daemon, the kernel and the metrics say.
func (d *demo) report() error {
	g := d.gateways[0]
	calls, err := d.pptpalg(g, "calls")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ pptpalg calls\n%s", calls)
	entries, err := g.host.Run(d.ctx, "conntrack", "-L", "-p", "gre")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ conntrack -L -p gre\n%s", entries.Stdout)
	metrics, err := d.metrics(g, "pptpalg_calls ", "pptpalg_calls_opened_total", `pptpalg_control_messages_total{type="Outgoing-Call-Re`, "pptpalg_packets_total", "pptpalg_conntrack_errors_total")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ curl http://%s/metrics\n%s\n", metricsAddr, metrics)
	return nil
}

func (d *demo) endAlone() error {
	if err := d.hangUp(d.gateways[0]); err != nil {
		return err
	}
	fmt.Printf(`Proven: two PPTP clients with the same Call ID, %v, behind the one address %v, had a call
each at the same time. The server saw two different Call IDs; every frame went to the
server process of its own client's call and its answer to its own client; and when the
clients hung up, both calls and their translations were gone.
`, callID, lab.GatewayPublic)
	return nil
}

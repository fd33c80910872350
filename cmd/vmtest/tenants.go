package main

import (
	"context"
	"errors"
	"fmt"

	"pptpalg/cmd/internal/lab"
)

// tenantPort is the port from which both tenants call.
const tenantPort = "5000 5000"

// tenants has two hosts with one address call one server from one port under one Call ID, each
// behind an interface and in a conntrack zone of its own. The kernel tells the zones of their
// packets. It changes the network for good. Data path queue does not tell the zones of GRE.
func (n *network) tenants() (err error) {
	if n.dataPath != "kernel" {
		return nil
	}
	if err := n.makeTenants(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err := lab.StartServer(n.Outside[1], lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	if err != nil {
		return err
	}
	defer server.Close()
	var calls []*lab.Call
	for _, h := range n.Inside {
		c, err := lab.StartClient(ctx, h, n.Outside[1].Addr)
		if err != nil {
			return err
		}
		defer c.Close()
		call, err := c.Call(7)
		if err != nil {
			return err
		}
		calls = append(calls, call)
	}
	for i, call := range calls {
		if err := call.Exchange(fmt.Appendf(nil, "of tenant %d", i), slow); err != nil {
			return fmt.Errorf("GRE of tenant %d: %w", i, err)
		}
	}
	if err := n.wantCalls(2); err != nil {
		return err
	}
	if err := errors.Join(calls[0].Client().Close(), n.wantCalls(1)); err != nil {
		return err
	}
	if err := calls[1].Exchange([]byte("still there"), slow); err != nil {
		return fmt.Errorf("after the other tenant hung up: %w", err)
	}
	fmt.Printf("guest: rules of %s: two tenants with one address, port and Call ID have a call each\n", n.rules)
	return nil
}

// makeTenants gives the second inside host the first one's address.
func (n *network) makeTenants() error {
	ctx := context.Background()
	same := n.Inside[0].Addr
	err := errors.Join(
		n.Gateway.IPBatch(ctx, `link set port-in1 nomaster
addr add 10.77.0.1/24 dev port-in1
route add 10.77.0.0/24 dev port-in1 table 102
rule add fwmark 2 lookup 102
`),
		n.Inside[0].IPBatch(ctx, "neigh flush dev eth0\n"), // a bridge with another port has another address
		n.Inside[1].IPBatch(ctx, fmt.Sprintf("addr flush dev eth0\naddr add %v/24 dev eth0\nroute add default via 10.77.0.1\n", same)),
		n.Gateway.IPTablesAdd(ctx, `*raw
-A PREROUTING -i lan -j CT --zone-orig 11
-A PREROUTING -i port-in1 -j CT --zone-orig 12
COMMIT
*mangle
-I PREROUTING -j CONNMARK --restore-mark
-I PREROUTING -i port-in1 -j CONNMARK --set-mark 2
COMMIT
*filter
-A FORWARD -i port-in1 -o wan -j ACCEPT
COMMIT
`))
	n.Inside[1].Addr = same
	for _, dev := range []string{"all", "port-in1"} {
		err = errors.Join(err, n.Gateway.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "0"))
	}
	for _, h := range n.Inside {
		err = errors.Join(err, h.SetSysctl("net.ipv4.ip_local_port_range", tenantPort))
	}
	return err
}

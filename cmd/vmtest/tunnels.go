package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pptpalg/cmd/internal/lab"
)

// tunnels has a call with Call ID 0 at both ends, beside tunnels of plain GRE between the same
// hosts: the gateway's and the client's begin before the call, another client's during it.
// Docs/ARCHITECTURE.md says how the kernel tells them apart; where the daemon translates,
// it is not the kernel that does.
func (n *network) tunnels() (err error) {
	if n.dataPath != "kernel" {
		return nil
	}
	far := n.Outside[1]
	server, err := lab.StartServer(far, lab.Behaviour{NextID: lab.Fixed(0)})
	if err != nil {
		return err
	}
	defer server.Close()
	for _, tt := range []struct {
		whose string
		near  *lab.Host
		late  bool
	}{{"gateway", n.Gateway, false}, {"gateway", n.Gateway, true}, {"client", n.Inside[0], false}, {"other client", n.Inside[1], true}} {
		if err := n.besideTunnel(tt.near, far, tt.late); err != nil {
			entries, _ := n.Gateway.Run(context.Background(), "conntrack", "-L", "-p", "gre")
			return fmt.Errorf("call with Call ID 0 beside a tunnel of the %s's, begun during it: %v: %w\n%s", tt.whose, tt.late, err, entries.Stdout)
		}
	}
	fmt.Printf("guest: data path kernel, rules of %s: calls with Call ID 0 and tunnels of plain GRE do not disturb each other\n", n.rules)
	return nil
}

// besideTunnel has a call and a tunnel carry packets, in turn. Each begins on a table
// without the others' entries.
func (n *network) besideTunnel(near, far *lab.Host, late bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := n.Gateway.Run(ctx, "conntrack", "-F"); err != nil {
		return err
	}
	u, err := lab.StartTunnel(near, lab.GatewayPublic, far)
	if err != nil {
		return err
	}
	defer u.Close()
	if !late {
		if err := u.Carry(slow); err != nil {
			return fmt.Errorf("before the call: %w", err)
		}
	}
	c, err := lab.StartClient(ctx, n.Inside[0], far.Addr)
	if err != nil {
		return err
	}
	call, err := c.Call(0)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	err = u.Carry(slow)
	if err == nil {
		err = call.Exchange([]byte("beside a tunnel"), slow)
	}
	if err == nil {
		err = u.Carry(slow)
	}
	if err := errors.Join(err, c.Close(), n.wantCalls(0)); err != nil {
		return fmt.Errorf("during the call: %w", err)
	}
	if err := u.Carry(slow); err != nil {
		return fmt.Errorf("after the call: %w", err)
	}
	return nil
}

// slow is how long a packet may take in an emulated machine.
const slow = 20 * time.Second

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"pptpalg/cmd/internal/lab"
)

// plainWAN puts the cable to the server in the place of the gateway's bridge.
func (n *network) plainWAN() error {
	return n.Gateway.IPBatch(context.Background(), plain("wan", n.Outside[0], lab.GatewayPublic.String()))
}

// plainCables has no bridge on either side, and hosts that take what XDP redirects to them.
func (n *network) plainCables() error {
	in, out := n.Inside[0], n.Outside[0]
	lines := plain("lan", in, lab.GatewayInside.String()) + plain("wan", out, lab.GatewayPublic.String())
	return errors.Join(n.Gateway.IPBatch(context.Background(), lines), in.SwitchGRO("eth0"), out.SwitchGRO("eth0"))
}

// plain lists the ip commands that put the cable to a host in the place of a bridge.
func plain(name string, h *lab.Host, addr string) string {
	return fmt.Sprintf(`link del %[1]s
link set port-%[2]s down
link set port-%[2]s name %[1]s
link set %[1]s up
addr add %[3]s/24 dev %[1]s
`, name, h.Name, addr)
}

// vlanWAN has the gateway's WAN be a VLAN on the cable to the server.
func (n *network) vlanWAN() error {
	vlan := func(cable, addr string) string {
		return fmt.Sprintf("link add link %s name wan type vlan id 10\nlink set wan up\naddr add %s/24 dev wan\n", cable, addr)
	}
	out := n.Outside[0]
	return errors.Join(
		n.Gateway.IPBatch(context.Background(), "link del wan\n"+vlan("port-"+out.Name, lab.GatewayPublic.String())),
		out.IPBatch(context.Background(), "addr flush dev eth0\n"+vlan("eth0", out.Addr.String())))
}

// pppoeWAN has the gateway's WAN be PPP over the cable to the server. Both ends know the
// session, so that none needs to be found.
func (n *network) pppoeWAN() error {
	out := n.Outside[0]
	err := errors.Join(
		n.Gateway.IPBatch(context.Background(), "link del wan\n"),
		out.IPBatch(context.Background(), "addr flush dev eth0\n"))
	if err != nil {
		return err
	}
	near := pppoe{n.Gateway, "port-" + out.Name, fmt.Sprintf("%v:%v", lab.GatewayPublic, out.Addr)}
	far := pppoe{out, "eth0", fmt.Sprintf("%v:%v", out.Addr, lab.GatewayPublic)}
	return errors.Join(n.startPPPoE(near, far), n.startPPPoE(far, near), near.up(), far.up())
}

// pppoe is an end of a line.
type pppoe struct {
	host  *lab.Host
	cable string
	addrs string // its own and the other's
}

const pppoeOptions = "plugin rp-pppoe.so rp_pppoe_sess 1:%v nic-%s %s ifname wan mtu 1492 mru 1492 noauth nodetach nodefaultroute noccp"

func (n *network) startPPPoE(end, other pppoe) error {
	var mac net.HardwareAddr
	err := other.host.Do(func() error {
		cable, err := net.InterfaceByName(other.cable)
		if err == nil {
			mac = cable.HardwareAddr
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("start PPPoE: %w", err)
	}
	cmd, err := end.host.Command(context.Background(), "pppd", strings.Fields(fmt.Sprintf(pppoeOptions, mac, end.cable, end.addrs))...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = n.log, n.log
	p, err := end.host.Start(cmd)
	if err != nil {
		return err
	}
	n.closers = append(n.closers, killed{p})
	return nil
}

// killed kills a process to close it.
type killed struct{ *lab.Process }

func (k killed) Close() error { return k.Kill() }

// up waits until the end has its addresses.
func (end pppoe) up() error {
	own, _, _ := strings.Cut(end.addrs, ":")
	err := poll(func() bool {
		out, err := end.host.Run(context.Background(), "ip", "-4", "addr", "show", "dev", "wan")
		return err == nil && strings.Contains(out.Stdout, "inet "+own+" ")
	})
	if err != nil {
		return fmt.Errorf("wait for PPPoE on %v: %w", end.host, err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pptpalg/cmd/internal/lab"
)

// inVRF puts the clients' network into a VRF, with routes that leak both ways. A packet of
// theirs then passes PREROUTING twice, and the kernel frees what is queued the second time.
func (tr trial) inVRF() (err error) {
	n := &network{trial: tr, log: new(lab.Log)}
	defer func() { err = n.end(err) }()
	for _, step := range []func() error{n.build, n.makeVRF, n.startDaemon, n.leftAlone, n.calls, n.dropFrom, n.renameVRF, n.strangers} {
		if err := step(); err != nil {
			return fmt.Errorf("in a VRF: %w", err)
		}
	}
	return nil
}

// wanInVRF puts the WAN into a VRF, and leaves the clients' network where it is. Both ways leak:
// to the WAN by the interface itself, or by the VRF's device. Routed to the device, what leaves
// passes POSTROUTING twice, and OUTPUT in between.
func (tr trial) wanInVRF(by string) error {
	n := &network{trial: tr, log: new(lab.Log)}
	makeVRF := func() error { return n.makeUplink(by) }
	for _, step := range []func() error{n.build, makeVRF, n.startDaemon, n.leftAlone, n.calls, n.strangers} {
		if err := step(); err != nil {
			return n.end(fmt.Errorf("with the WAN in a VRF, by %s: %w", by, err))
		}
	}
	fmt.Printf("guest: data path %s, rules of %s: calls work with the WAN in a VRF, by %s\n", n.dataPath, n.rules, by)
	return n.end(nil)
}

// uplink is the VRF of the WAN.
const uplink = "uplink"

func (n *network) makeUplink(by string) error {
	err := n.ip("link add "+uplink+" type vrf table 100", "link set "+uplink+" up", "link set wan master "+uplink,
		"route add 10.77.0.0/24 dev lan table 100", "route add 203.0.113.0/24 dev "+by)
	if by != uplink {
		return err
	}
	return errors.Join(err, n.iptables("-A FORWARD -i lan -o "+uplink+" -j ACCEPT"),
		n.iptables("-t nat -A POSTROUTING -s 10.77.0.0/24 -o "+uplink+" -j SNAT --to-source "+lab.GatewayPublic.String()))
}

func (n *network) makeVRF() error {
	return errors.Join(n.iptables("-t mangle -A PREROUTING -i lan -j MARK --set-mark 5"), n.forwardFrom("tenant"),
		n.ip("link add tenant type vrf table 100", "link set tenant up", "link set lan master tenant",
			"route add 203.0.113.0/24 dev wan table 100", "route add 10.77.0.0/24 dev tenant"))
}

// forwardFrom has the firewall accept what comes from a VRF. To FORWARD, the VRF's device is the
// interface by which it came; PREROUTING has seen the member before.
func (n *network) forwardFrom(dev string) error {
	return n.iptables("-A FORWARD -i " + dev + " -o wan -m mark --mark 5 -j ACCEPT")
}

func (n *network) iptables(line string) error {
	_, err := n.Gateway.Run(context.Background(), "iptables", strings.Fields(line)...)
	return err
}

// dropFrom has the firewall drop GRE that comes from the VRF, and wants check to say so.
func (n *network) dropFrom() error {
	if err := n.iptables("-t mangle -I FORWARD -i tenant -p gre -j DROP"); err != nil {
		return err
	}
	out, err := n.Gateway.Run(context.Background(), program, "check", "--state-dir", n.state)
	if err == nil || !strings.Contains(out.Stdout, "-i tenant -p gre -j DROP drops GRE from tenant to wan") {
		return fmt.Errorf("GRE of the VRF is dropped, and check said: %v\n%s", err, out.Stdout)
	}
	return n.iptables("-t mangle -D FORWARD -i tenant -p gre -j DROP")
}

func (n *network) ip(lines ...string) error {
	for _, line := range lines {
		if _, err := n.Gateway.Run(context.Background(), "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// renameVRF renames the VRF's device, and makes another one. Rules that know such devices by
// name follow: connections work, and no rule was missing.
func (n *network) renameVRF() error {
	err := errors.Join(n.forwardFrom("customer"), n.ip("link set tenant down", "link set tenant name customer", "link set customer up",
		"route add 10.77.0.0/24 dev customer", "link add later type vrf table 101"))
	if err != nil {
		return err
	}
	if n.rules == "iptables" {
		if err := n.followed("mangle"); err != nil {
			return err
		}
	}
	if n.rules == "iptables" && n.dataPath == "queue" {
		if err := n.followed("raw"); err != nil {
			return err
		}
	}
	if err := n.leftAlone(); err != nil {
		return fmt.Errorf("after it was renamed: %w", err)
	}
	if lost := n.metric("pptpalg_rules_lost_total"); lost != "0" {
		return fmt.Errorf("rules were lost %s times", lost)
	}
	return nil
}

// followed waits until a table of iptables has the VRFs that are there, and no others.
func (n *network) followed(table string) error {
	var listed string
	err := poll(func() bool {
		out, err := n.Gateway.Run(context.Background(), "iptables", "-t", table, "-S")
		listed = out.Stdout
		return err == nil && strings.Contains(listed, "-i customer -j RETURN") &&
			strings.Contains(listed, "-i later -j RETURN") && !strings.Contains(listed, "-i tenant ")
	})
	if err != nil {
		return fmt.Errorf("wait for the VRFs in table %s: %w: it has\n%s", table, err, listed)
	}
	return nil
}

// strangers sends GRE of a call that nobody knows, which the daemon sees only where it translates.
func (n *network) strangers() error {
	from, err := lab.OpenGRE(n.Inside[0], n.Inside[0].Addr)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := lab.OpenGRE(n.Outside[1], n.Outside[1].Addr)
	if err != nil {
		return err
	}
	defer to.Close()
	const id = 4711
	seq := uint32(1)
	if err := from.Send(lab.Packet{Dst: n.Outside[1].Addr, CallID: id, Seq: &seq, Payload: []byte("of nobody")}); err != nil {
		return err
	}
	if _, err := to.RecvCall(id, patience); err != nil {
		return fmt.Errorf("GRE of a call that nobody knows: %w", err)
	}
	fmt.Printf("guest: data path %s, rules of %s: calls work in a VRF, under another name too\n", n.dataPath, n.rules)
	return nil
}

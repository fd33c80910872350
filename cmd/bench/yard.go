package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/internal/lab"
)

// Addresses of a yard's crowd: what the lab's networks have room for.
const (
	clientCount  = 200
	serverCount  = 8
	firstClient  = 20 // last byte of the address
	firstServer  = 10
	gatewayLAN   = "lan"
	gatewayWAN   = "wan"
	hostsDevice  = "eth0"
	keepCallTime = "7200" // seconds: no entry that packets have made ends during a run
)

// yard is a gateway's namespace with those of its clients and servers: one for each
// contender, for what one of them leaves in a namespace slows the others there.
//
//	clients 10.77.0.20 … ── veth ── lan  gateway  wan ── veth ── servers 203.0.113.10 …
type yard struct {
	*lab.Network
	farm    *farm.Farm
	clients []netip.Addr
	servers []netip.Addr
	cards   map[string]net.Interface // by namespace and name
	room    int                      // for how many calls a contender needs it; 0 for its default
}

// client and server are where the crowd lives.
func (y *yard) client() *lab.Host { return y.Inside[0] }
func (y *yard) server() *lab.Host { return y.Outside[0] }

// newYard builds a yard. The lab's bridges are taken out, so that a packet passes
// two cables and the gateway, and nothing else.
func newYard(ctx context.Context, o lab.Options) (*yard, error) {
	o.Inside, o.Outside = 1, 1
	n, err := lab.New(o)
	if err != nil {
		return nil, err
	}
	y := &yard{Network: n, cards: make(map[string]net.Interface)}
	if err := y.build(ctx); err != nil {
		return nil, fmt.Errorf("build yard: %w", errors.Join(err, y.Close()))
	}
	return y, nil
}

func (y *yard) build(ctx context.Context) (err error) {
	y.clients, y.servers = crowdAddresses()
	if err := y.cable(ctx); err != nil {
		return err
	}
	if err := tune(ctx, y.client(), y.server(), y.Gateway); err != nil {
		return err
	}
	y.farm, err = farm.Start(y.client(), y.server(), y.clients, y.servers)
	return err
}

// crowdAddresses are those of the clients and of their servers.
func crowdAddresses() (clients, servers []netip.Addr) {
	for i := range clientCount {
		clients = append(clients, address(lab.LAN, firstClient+i))
	}
	for i := range serverCount {
		servers = append(servers, address(lab.WAN, firstServer+i))
	}
	return clients, servers
}

func address(p netip.Prefix, last int) netip.Addr {
	a := p.Addr().As4()
	a[3] = byte(last)
	return netip.AddrFrom4(a)
}

// cable gives the gateway's ports the bridges' names and addresses, and everybody a
// neighbour table that never ends.
//
// Ports are renamed while they are up, as kernels allow since 6.2. One that goes down takes
// masqueraded connections with it, and not at once: the kernel looks for them in a work
// queue (nf_nat_masquerade_schedule), which has seconds to do with a namespace that has just
// gone, and so finds those that have begun since.
func (y *yard) cable(ctx context.Context) error {
	if err := y.Gateway.IPBatch(ctx, "link del lan\nlink del wan\n"); err != nil {
		return err
	}
	lan, wan := "port-"+y.client().Name, "port-"+y.server().Name
	names := fmt.Sprintf("link set %s name lan\nlink set %s name wan\n", lan, wan)
	if y.Gateway.IPBatch(ctx, names) != nil {
		down := fmt.Sprintf("link set %s down\nlink set %s down\n", lan, wan)
		if err := y.Gateway.IPBatch(ctx, down+names+"link set lan up\nlink set wan up\n"); err != nil {
			return err
		}
	}
	addresses := fmt.Sprintf("addr add %v/24 dev lan\naddr add %v/24 dev wan\n", lab.GatewayInside, lab.GatewayPublic)
	if err := y.Gateway.IPBatch(ctx, addresses); err != nil {
		return err
	}
	for _, at := range []struct {
		h    *lab.Host
		name string
	}{{y.Gateway, gatewayLAN}, {y.Gateway, gatewayWAN}, {y.client(), hostsDevice}, {y.server(), hostsDevice}} {
		if err := y.card(at.h, at.name); err != nil {
			return err
		}
	}
	if err := y.populate(ctx, y.client(), y.clients, gatewayLAN, lab.GatewayInside); err != nil {
		return err
	}
	return y.populate(ctx, y.server(), y.servers, gatewayWAN, lab.GatewayPublic)
}

// card notes an interface, and has it receive by NAPI, as a veth does where GRO is on: frames
// that are redirected to it need that.
func (y *yard) card(h *lab.Host, name string) error {
	err := h.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("look up interface of %s: %w", h.Name, err)
		}
		y.cards[h.Name+"/"+name] = *i
		return nil
	})
	if err != nil {
		return err
	}
	return h.SwitchGRO(name)
}

func (y *yard) cardOf(h *lab.Host, name string) net.Interface { return y.cards[h.Name+"/"+name] }

// populate gives a host its addresses and introduces it and the gateway to each
// other.
func (y *yard) populate(ctx context.Context, h *lab.Host, addrs []netip.Addr, port string, gateway netip.Addr) error {
	var host, gw strings.Builder
	for _, a := range addrs {
		if a != h.Addr {
			fmt.Fprintf(&host, "addr add %v/24 dev %s\n", a, hostsDevice)
		}
		fmt.Fprintf(&gw, "neigh replace %v lladdr %v nud permanent dev %s\n", a, y.cardOf(h, hostsDevice).HardwareAddr, port)
	}
	fmt.Fprintf(&host, "neigh replace %v lladdr %v nud permanent dev %s\n", gateway, y.cardOf(y.Gateway, port).HardwareAddr, hostsDevice)
	return errors.Join(h.IPBatch(ctx, host.String()), y.Gateway.IPBatch(ctx, gw.String()))
}

// tune sets, for every contender alike, how long conntrack remembers, and has the hosts of the crowd
// say nothing of sockets that are gone.
func tune(ctx context.Context, client, server *lab.Host, gateways ...*lab.Host) error {
	type setting struct {
		h           *lab.Host
		name, value string
	}
	all := []setting{
		{client, "net.ipv4.ip_local_port_range", "2000 65000"},
		{server, "net.core.somaxconn", "8192"},
		{server, "net.ipv4.tcp_max_syn_backlog", "8192"},
	}
	for _, g := range gateways {
		all = append(all,
			setting{g, "net.netfilter.nf_conntrack_gre_timeout", keepCallTime},
			setting{g, "net.netfilter.nf_conntrack_gre_timeout_stream", keepCallTime},
			setting{g, "net.netfilter.nf_conntrack_tcp_timeout_time_wait", "4"},
			setting{g, "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged", keepCallTime})
	}
	for _, s := range all {
		if err := s.h.SetSysctl(s.name, s.value); err != nil {
			return err
		}
	}
	for _, h := range []*lab.Host{client, server} {
		if err := h.IPTables(ctx, "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the farm and the namespaces.
func (y *yard) Close() error {
	var err error
	if y.farm != nil {
		err = y.farm.Close()
	}
	return errors.Join(err, y.Network.Close())
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// Addresses of the two sides, as drawn in the package comment.
var (
	LAN           = netip.MustParsePrefix("10.77.0.0/24")
	WAN           = netip.MustParsePrefix("203.0.113.0/24")
	GatewayInside = netip.MustParseAddr("10.77.0.1")
	GatewayPublic = netip.MustParseAddr("203.0.113.1")
)

// MaxHosts is how many hosts one side can have: addresses from .100 on belong to
// the gateway.
const MaxHosts = 80

const buildTime = 20 * time.Second

// DNAT says what of an extra public address goes to its inside host.
type DNAT uint8

// Ways to reach inside hosts from outside.
const (
	NoDNAT      DNAT = iota
	DNATAddress      // everything sent to the address, GRE included
	DNATControl      // TCP port 1723 alone: GRE is left to the editor
)

func (d DNAT) String() string {
	switch d {
	case NoDNAT:
		return "none"
	case DNATAddress:
		return "address"
	case DNATControl:
		return "control"
	}
	return fmt.Sprintf("unknown(%d)", uint8(d))
}

// Options says what to build. The zero value of each NAT option means plain
// routing; then, and only then, outside hosts know a way to the LAN.
type Options struct {
	Inside, Outside int // hosts on each side, at most MaxHosts

	Masquerade bool       // translate LAN → WAN to GatewayPublic
	SNAT       netip.Addr // translate LAN → WAN to this WAN address, which the gateway gets
	DNAT       DNAT       // PublicOf(i) is translated to inside host i
	Hairpin    bool       // translate the source of LAN → gateway → LAN as well
	Pair       bool       // two gateways on the same segments: see SwitchAddr
	Firewall   bool       // FORWARD drops what is neither established, related, LAN → WAN nor a DNATed control connection
}

func (o Options) routed() bool {
	return !o.Masquerade && !o.SNAT.IsValid() && o.DNAT == NoDNAT
}

func (o Options) check() error {
	for _, n := range []int{o.Inside, o.Outside} {
		if n < 0 || n > MaxHosts {
			return fmt.Errorf("check options: %d hosts on one side, want 0 to %d", n, MaxHosts)
		}
	}
	if o.SNAT.IsValid() && !WAN.Contains(o.SNAT) {
		return fmt.Errorf("check options: SNAT address %v is not in %v", o.SNAT, WAN)
	}
	return nil
}

// PublicOf returns the extra public address that Options.DNAT gives to inside
// host i.
func PublicOf(i int) netip.Addr { return nth(WAN, 100+i) }

// nth returns the address with last byte n; every prefix here is a /24.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// Network is a built lab. Close it, or its namespaces stay until a later Sweep.
type Network struct {
	Gateway *Host
	Inside  []*Host // 10.77.0.10, .11, …
	Outside []*Host // 203.0.113.10, .11, …

	Standby, Switch *Host // of Options.Pair

	dir string // files of the programs in the lab; its name is the prefix of every namespace
}

var networks atomic.Int64 // networks built by this process

// New builds a network, after removing what killed runs left behind. An error
// leaves nothing built.
func New(o Options) (*Network, error) {
	if err := ready(o); err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	name, err := ownName(networks.Add(1))
	if err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	n := plan(name, o)
	if err := n.build(o); err != nil {
		return nil, fmt.Errorf("build lab: %w", errors.Join(err, n.Close()))
	}
	return n, nil
}

func ready(o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("make namespaces: need root")
	}
	if err := Need("ip", "iptables", "iptables-restore"); err != nil {
		return err
	}
	return Sweep()
}

// plan names the hosts; nothing is created yet.
func plan(name string, o Options) *Network {
	n := &Network{dir: filepath.Join(os.TempDir(), name)}
	host := func(role string, a netip.Addr) *Host {
		return &Host{Name: role, Addr: a, Namespace: name + "-" + role, dir: n.dir}
	}
	n.Gateway = host("gw", GatewayPublic)
	if o.Pair {
		n.Standby, n.Switch = host("gw2", GatewayPublic), host("sw", SwitchAddr)
	}
	for i := range o.Inside {
		n.Inside = append(n.Inside, host(fmt.Sprintf("in%d", i), nth(LAN, 10+i)))
	}
	for i := range o.Outside {
		n.Outside = append(n.Outside, host(fmt.Sprintf("out%d", i), nth(WAN, 10+i)))
	}
	return n
}

// Hosts returns the gateways and all hosts.
func (n *Network) Hosts() []*Host {
	hosts := n.gateways()
	if n.Switch != nil {
		hosts = append(hosts, n.Switch)
	}
	return append(hosts, n.ends()...)
}

func (n *Network) gateways() []*Host {
	if n.Standby != nil {
		return []*Host{n.Gateway, n.Standby}
	}
	return []*Host{n.Gateway}
}

// ends are the hosts on both sides.
func (n *Network) ends() []*Host { return slices.Concat(n.Inside, n.Outside) }

// AttachKernelHelper makes the kernel's own PPTP helper edit the control
// connections that the gateway forwards.
func (n *Network) AttachKernelHelper(ctx context.Context) error {
	return n.Gateway.IPTables(ctx, "-t", "raw", "-A", "PREROUTING",
		"-p", "tcp", "--dport", "1723", "-j", "CT", "--helper", "pptp")
}

// Close kills every process that still runs in the lab and removes the lab. It
// may be called twice.
func (n *Network) Close() error {
	var errs []error
	for _, h := range n.Hosts() {
		errs = append(errs, h.close())
	}
	errs = append(errs, os.RemoveAll(n.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab: %w", err)
	}
	return nil
}

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"pptpalg/cmd/internal/lab"
)

// network is a lab in which calls are made.
type network struct {
	*lab.Network
	trial
	outside int      // hosts; 0 is two
	flags   []string // the daemon's, beside what the trial says
	humble  bool     // the daemon is not root: see humbly
	state   string
	daemon  *lab.Process
	log     *lab.Log
	server  *server
	closers []io.Closer // closed in reverse order
}

// run builds a network and makes calls in it. An error carries what the programs said.
func (tr trial) run() (err error) {
	n := &network{trial: tr, log: new(lab.Log)}
	defer func() { err = n.end(err) }()
	for _, step := range []func() error{n.build, n.sameRules, n.startDaemon, n.loseRules, n.attribute, n.leftAlone, n.tunnels, n.calls, n.tenants} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// end takes everything down, and adds to an error what the daemon said.
func (n *network) end(err error) error {
	if err != nil {
		err = fmt.Errorf("%w\nthe daemon said: %s", err, n.log)
	}
	return errors.Join(err, n.close())
}

// build makes the network and starts the server.
func (n *network) build() error {
	l, err := lab.New(lab.Options{Inside: len(n.callers), Outside: cmp.Or(n.outside, 2), Masquerade: true, Firewall: true})
	if err != nil {
		return err
	}
	n.Network = l
	n.closers = append(n.closers, l)
	if err := n.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"); err != nil {
		return err
	}
	if n.state, err = os.MkdirTemp("", "vmtest-"); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if n.server, err = startServer(n.Outside[0], n.state); err != nil {
		return err
	}
	n.closers = append(n.closers, n.server)
	return nil
}

// startDaemon starts the daemon, which loads its rules.
func (n *network) startDaemon() error {
	args := []string{"run", "--config", "", "--state-dir", n.state, "--datapath", n.dataPath, "--rules", n.rules}
	args = append(args, n.flags...)
	cmd, err := n.Gateway.Command(context.Background(), program, args...)
	if err != nil {
		return err
	}
	cmd.Stderr = n.log
	if n.humble {
		humbly(cmd.SysProcAttr)
	}
	if n.daemon, err = n.Gateway.Start(cmd); err != nil {
		return err
	}
	if err := poll(func() bool { return strings.Contains(n.log.String(), "msg=started") }); err != nil {
		return fmt.Errorf("wait for the daemon: %w", err)
	}
	if n.humble {
		return n.wantHumble()
	}
	return nil
}

// sameRules wants what the daemon loads to be what nft makes of the printed rules.
func (n *network) sameRules() error {
	if n.rules == "iptables" {
		return nil
	}
	ctx := context.Background()
	printed, err := n.Gateway.Run(ctx, program, "rules", "print", "--config", "", "--format", "nft", "--datapath", n.dataPath)
	if err != nil {
		return err
	}
	file := filepath.Join(n.state, "pptpalg.nft")
	if err := os.WriteFile(file, []byte(printed.Stdout), 0o644); err != nil {
		return err
	}
	load := []string{program, "rules", "load", "--config", "", "--rules", "nft", "--datapath", n.dataPath}
	var listed [4]string
	for i, command := range [][]string{{"nft", "-f", file}, {"nft", "-f", file}, load, load} { // the second load replaces the first
		if _, err := n.Gateway.Run(ctx, command[0], command[1:]...); err != nil {
			return err
		}
		list, err := n.Gateway.Run(ctx, "nft", "list", "table", "ip", "pptpalg")
		if err != nil {
			return err
		}
		if listed[i] = list.Stdout; listed[i] != listed[0] {
			return fmt.Errorf("load rules by %s: nft lists\n%s\nand before\n%s", command[0], listed[i], listed[0])
		}
	}
	return nil
}

// loseRules removes the rules of nftables, and wants them to be loaded again.
func (n *network) loseRules() error {
	if n.rules == "iptables" {
		return nil
	}
	if _, err := n.Gateway.Run(context.Background(), "nft", "delete table ip pptpalg"); err != nil {
		return err
	}
	back := func() bool {
		return n.metric("pptpalg_rules_lost_total") == "1" && n.metric("pptpalg_rules_loaded") == "1"
	}
	if err := poll(back); err != nil {
		return fmt.Errorf("wait for the rules to come back: %w", err)
	}
	return nil
}

// calls has two clients call at once, ping through both tunnels at once, and hang up one
// after the other.
func (n *network) calls() error {
	clients, err := n.dial()
	if err != nil {
		return err
	}
	if err := n.judge(clients); err != nil {
		return err
	}
	return n.hangUp(clients)
}

// dial has all clients call at once, and ping through their tunnels at once.
func (n *network) dial() ([]*client, error) {
	var clients []*client
	for i, h := range n.Inside {
		c := &client{user: users[i], caller: n.callers[i], host: h}
		if err := errors.Join(c.hide(), c.start(n.Outside[0].Addr, n.state)); err != nil {
			return nil, err
		}
		n.closers = append(n.closers, c)
		clients = append(clients, c)
	}
	for _, c := range clients {
		if err := c.up(); err != nil {
			return nil, fmt.Errorf("%w\nthe server's pppd said: %s", err, n.server.said())
		}
	}
	if err := pingAll(clients...); err != nil {
		return nil, err
	}
	return clients, n.check(clients)
}

// hangUp has clients hang up one after the other. The others go on.
func (n *network) hangUp(clients []*client) error {
	for i, c := range clients {
		if err := c.hangUp(); err != nil {
			return err
		}
		if err := n.wantCalls(len(clients) - i - 1); err != nil {
			return err
		}
		if err := pingAll(clients[i+1:]...); err != nil {
			return fmt.Errorf("after %s hung up: %w", c.user, err)
		}
	}
	return nil
}

// pingAll pings through the tunnels of clients at the same time.
func pingAll(clients ...*client) error {
	results := make(chan error)
	for _, c := range clients {
		go func() { results <- c.ping() }()
	}
	var errs []error
	for range clients {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// check looks whether the two calls were what they are to be: two for the daemon, both
// with the Call ID wanted, and both encrypted, for both ends and on the wire.
func (n *network) check(clients []*client) error {
	if err := n.wantCalls(len(clients)); err != nil {
		return err
	}
	if ends := strings.Count(n.server.said(), mppeUp); ends < len(clients) {
		return fmt.Errorf("look for MPPE: the server's pppd has it on %d calls: %s", ends, n.server.said())
	}
	for _, c := range clients {
		if !strings.Contains(c.log.String(), mppeUp) {
			return fmt.Errorf("look for MPPE: the pppd of %s has none: %s", c.user, c.log)
		}
		encrypted, err := c.wire()
		if err != nil {
			return err
		}
		fmt.Printf("guest: data path %s, rules of %s: %s has %v by %s, Call ID %v, MPPE: %d pings, %d encrypted packets\n",
			n.dataPath, n.rules, c.user, c.addr, c.caller, callID, pings, encrypted)
	}
	return nil
}

// judge wants "pptpalg explain" to find that calls work, which it does where GRE is
// counted both ways, and "pptpalg check" to find no problem. It takes the firewall's rules of
// nft's own in a table of iptables for one.
func (n *network) judge(clients []*client) error {
	for _, c := range clients {
		if err := n.says("(working)", "explain", c.host.Addr.String()); err != nil {
			return err
		}
	}
	if n.rules == "nft" {
		return nil
	}
	return n.says("the daemon runs, and its rules are loaded", "check")
}

// says runs one of pptpalg's commands, which is to succeed and to say something.
func (n *network) says(want string, args ...string) error {
	out, err := n.Gateway.Run(context.Background(), program, append(args, "--state-dir", n.state)...)
	if err == nil && !strings.Contains(out.Stdout, want) {
		err = fmt.Errorf("look for %q", want)
	}
	if err != nil {
		return fmt.Errorf("%w: pptpalg %s said:\n%s", err, args[0], out.Stdout)
	}
	return nil
}

// wantCalls waits until the daemon has so many calls.
func (n *network) wantCalls(want int) error {
	var got string
	err := poll(func() bool {
		got = n.metric("pptpalg_calls")
		return got == strconv.Itoa(want)
	})
	if err != nil {
		return fmt.Errorf("wait for %d calls, have %s: %w", want, got, err)
	}
	return nil
}

// metric returns the value of one of the daemon's metrics, or why there is none.
func (n *network) metric(name string) string {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.Gateway.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort(metricsAddr))
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return value
		}
	}
	return "none"
}

// close takes everything down, the daemon first.
func (n *network) close() error {
	var errs []error
	if n.daemon != nil {
		errs = append(errs, n.daemon.Signal(syscall.SIGTERM), n.daemon.Wait(patience))
	}
	for _, c := range slices.Backward(n.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// metricsAddr is where the daemon serves its metrics, inside the gateway.
const metricsAddr = "127.0.0.1:9723"

// Addresses inside the tunnels.
var (
	serverInside = netip.MustParseAddr("192.168.99.1")
	clientPool   = "192.168.99.10-19"
)

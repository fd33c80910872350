package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// callID is what both clients choose.
const callID pptp.CallID = 7

// frames is how many PPP frames each client sends, and gets answered.
const frames = 20

// metricsAddr is where a daemon serves its metrics, inside its gateway.
const metricsAddr = "127.0.0.1:9723"

// demo is the network and what runs in it.
type demo struct {
	*lab.Network
	ctx      context.Context
	program  string
	gateways []*gateway
	clients  []*client
	closers  []io.Closer // closed in reverse order
}

// gateway is a gateway's daemon.
type gateway struct {
	name   string
	host   *lab.Host
	state  string
	daemon *lab.Process
	log    *lab.Log
}

func (d *demo) closeLater(c io.Closer) { d.closers = append(d.closers, c) }

// said is what the daemons have said.
func (d *demo) said() string {
	var b strings.Builder
	for _, g := range d.gateways {
		fmt.Fprintf(&b, "\nthe daemon of %s said: %s", g.name, g.log)
	}
	return b.String()
}

// serve starts the PPTP server.
func (d *demo) serve(o lab.PPTPDOptions) error {
	server, err := lab.StartPPTPD(d.Outside[0], o)
	if err == nil {
		d.closeLater(server)
	}
	return err
}

// run starts a gateway's daemon and waits until it edits.
func (d *demo) run(name string, host *lab.Host, flags ...string) (*gateway, error) {
	state, err := os.MkdirTemp("", "pptpalg-demo-")
	if err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	g := &gateway{name: name, host: host, state: state, log: new(lab.Log)}
	d.gateways = append(d.gateways, g)
	cmd, err := host.Command(context.Background(), d.program, append([]string{"run", "--state-dir", state}, flags...)...)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = g.log
	if g.daemon, err = host.Start(cmd); err != nil {
		return nil, err
	}
	return g, g.log.WaitFor("msg=started", lab.Patience)
}

// pptpalg runs a command of pptpalg on a gateway and returns what it prints.
func (d *demo) pptpalg(g *gateway, args ...string) (string, error) {
	out, err := g.host.Run(d.ctx, d.program, append(args, "--state-dir", g.state)...)
	return out.Stdout, err
}

// close takes everything down. The daemons go first, with their rules.
func (d *demo) close() error {
	var errs []error
	for _, g := range d.gateways {
		errs = append(errs, g.stop(), os.RemoveAll(g.state))
	}
	for _, c := range slices.Backward(d.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// stop ends the daemon, unless it has ended.
func (g *gateway) stop() error {
	if g.daemon == nil {
		return nil
	}
	select {
	case <-g.daemon.Done():
		return nil
	default:
	}
	return errors.Join(g.daemon.Signal(syscall.SIGTERM), g.daemon.Wait(lab.Patience))
}

// dial has both clients call the server under the same Call ID.
func (d *demo) dial() error {
	for i, host := range d.Inside {
		c, err := d.call(host)
		if err != nil {
			return fmt.Errorf("client %d: %w", i+1, err)
		}
		fmt.Printf("client %d (%v) calls with Call ID %v: answered by server process %d, which sees %v\n", i+1, host.Addr, callID, c.hello.PID, c.hello.Remote)
	}
	if d.clients[0].hello.PID == d.clients[1].hello.PID {
		return errors.New("one server process serves both clients: their calls are not told apart")
	}
	return nil
}

// exchange sends frames of both clients in turn. Each is answered by the server
// process of its client's own call, or the demonstration has failed.
func (d *demo) exchange() error {
	for n := range frames {
		for i, c := range d.clients {
			text := fmt.Sprintf("frame %d of client %d", n+1, i+1)
			if err := c.roundTrip(text); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
	}
	for i, c := range d.clients {
		packets := c.gre.Waiting()
		if stray := slices.IndexFunc(packets, func(p lab.Packet) bool { return p.CallID != callID || p.Src != d.Outside[0].Addr }); stray >= 0 {
			return fmt.Errorf("client %d received a stranger's GRE: %v", i+1, packets[stray])
		}
		fmt.Printf("client %d: %d PPP frames there and back; all %d GRE packets that reached its host carry Call ID %v\n", i+1, frames, len(packets), callID)
	}
	return nil
}

// metrics returns those of a gateway's daemon that begin so.
func (d *demo) metrics(g *gateway, beginnings ...string) (string, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.host.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort(metricsAddr))
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		return "", fmt.Errorf("get metrics: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	var shown strings.Builder
	for line := range strings.Lines(string(body)) {
		if slices.ContainsFunc(beginnings, func(b string) bool { return strings.HasPrefix(line, b) }) {
			shown.WriteString(line)
		}
	}
	return shown.String(), nil
}

// hangUp ends both calls and looks whether a gateway has anything left of them.
func (d *demo) hangUp(g *gateway) error {
	for _, c := range d.clients {
		if err := c.HangUp(lab.Patience); err != nil {
			return err
		}
	}
	err := lab.Poll(lab.Patience, func() bool {
		out, err := d.pptpalg(g, "calls", "--json")
		return err == nil && strings.TrimSpace(out) == "[]"
	})
	if err != nil {
		return fmt.Errorf("wait for the calls to end: %w", err)
	}
	return nil
}

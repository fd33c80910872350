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

// metricsAddr is where the daemon serves its metrics, inside the gateway.
const metricsAddr = "127.0.0.1:9723"

// demo is the network and what runs in it.
type demo struct {
	*lab.Network
	ctx     context.Context
	program string
	state   string
	daemon  *lab.Process
	log     *lab.Log
	clients []*client
	closers []io.Closer // closed in reverse order
}

// client is a real pptp-linux and a look at the GRE that reaches its host.
type client struct {
	*lab.PPTP
	host  *lab.Host
	gre   *lab.GRE
	hello lab.Proof
}

func build(ctx context.Context, program string) (*demo, error) {
	if err := lab.Need("pptp", "pptpd", "iptables", "ip", "conntrack"); err != nil {
		return nil, err
	}
	n, err := lab.New(lab.Options{Inside: 2, Outside: 1, Masquerade: true, Firewall: true})
	if err != nil {
		return nil, err
	}
	d := &demo{Network: n, ctx: ctx, program: program, log: new(lab.Log), closers: []io.Closer{n}}
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// start starts the server and the daemon.
func (d *demo) start() error {
	fmt.Printf(`The network, each box a network namespace of its own:

  pptp-linux %v ──┐
                         ├── gateway, masquerading as %v ── pptpd %v
  pptp-linux %v ──┘   pptpalg run

`, d.Inside[0].Addr, lab.GatewayPublic, d.Outside[0].Addr, d.Inside[1].Addr)
	var err error
	if d.state, err = os.MkdirTemp("", "pptpalg-demo-"); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	server, err := lab.StartPPTPD(d.Outside[0], lab.PPTPDOptions{})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, server)
	cmd, err := d.Gateway.Command(context.Background(), d.program, "run", "--state-dir", d.state)
	if err != nil {
		return err
	}
	cmd.Stderr = d.log
	if d.daemon, err = d.Gateway.Start(cmd); err != nil {
		return err
	}
	return d.log.WaitFor("msg=started", lab.Patience)
}

// dial has both clients call the server under the same Call ID.
func (d *demo) dial() error {
	for i, host := range d.Inside {
		gre, err := lab.OpenGRE(host, host.Addr)
		if err != nil {
			return err
		}
		d.closers = append(d.closers, gre)
		id := callID
		p, err := lab.StartPPTP(host, lab.PPTPOptions{Server: d.Outside[0].Addr, CallID: &id})
		if err != nil {
			return err
		}
		d.closers = append(d.closers, p)
		hello, err := p.RecvProof(lab.Hello, 2*lab.Patience)
		if err != nil {
			return fmt.Errorf("wait for the call of client %d: %w", i+1, err)
		}
		fmt.Printf("client %d (%v) calls with Call ID %v: answered by server process %d, which sees %v\n", i+1, host.Addr, id, hello.PID, hello.Remote)
		d.clients = append(d.clients, &client{PPTP: p, host: host, gre: gre, hello: hello})
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

func (c *client) roundTrip(text string) error {
	if err := c.Send([]byte(text)); err != nil {
		return err
	}
	echo, err := c.RecvProof(lab.Echo, lab.Patience)
	if err != nil {
		return err
	}
	if echo.PID != c.hello.PID || string(echo.Payload) != text {
		return fmt.Errorf("the wrong answer came: %v", echo)
	}
	return nil
}

// report shows what the daemon, the kernel and the metrics say.
func (d *demo) report() error {
	calls, err := d.Gateway.Run(d.ctx, d.program, "calls", "--state-dir", d.state)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ pptpalg calls\n%s", calls.Stdout)
	entries, err := d.Gateway.Run(d.ctx, "conntrack", "-L", "-p", "gre")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ conntrack -L -p gre\n%s", entries.Stdout)
	metrics, err := d.metrics()
	if err != nil {
		return err
	}
	fmt.Printf("\n$ curl http://%s/metrics\n%s\n", metricsAddr, metrics)
	return nil
}

// metrics returns a few of the daemon's metrics.
func (d *demo) metrics() (string, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.Gateway.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort(metricsAddr))
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
		for _, name := range []string{"pptpalg_calls ", "pptpalg_calls_opened_total", `pptpalg_control_messages_total{type="Outgoing-Call-Re`, "pptpalg_packets_total", "pptpalg_conntrack_errors_total"} {
			if strings.HasPrefix(line, name) {
				shown.WriteString(line)
			}
		}
	}
	return shown.String(), nil
}

// hangUp ends both calls and looks whether anything is left of them.
func (d *demo) hangUp() error {
	for _, c := range d.clients {
		if err := c.HangUp(lab.Patience); err != nil {
			return err
		}
	}
	err := lab.Poll(lab.Patience, func() bool {
		out, err := d.Gateway.Run(d.ctx, d.program, "calls", "--json", "--state-dir", d.state)
		return err == nil && strings.TrimSpace(out.Stdout) == "[]"
	})
	if err != nil {
		return fmt.Errorf("wait for the calls to end: %w", err)
	}
	fmt.Printf(`Proven: two PPTP clients with the same Call ID, %v, behind the one address %v, had a call
each at the same time. The server saw two different Call IDs; every frame went to the
server process of its own client's call and its answer to its own client; and when the
clients hung up, both calls and their translations were gone.
`, callID, lab.GatewayPublic)
	return nil
}

// close takes everything down. The daemon goes first, with its rules.
func (d *demo) close() error {
	var errs []error
	if d.daemon != nil {
		errs = append(errs, d.daemon.Signal(syscall.SIGTERM), d.daemon.Wait(lab.Patience))
	}
	for _, c := range slices.Backward(d.closers) {
		errs = append(errs, c.Close())
	}
	if d.state != "" {
		errs = append(errs, os.RemoveAll(d.state))
	}
	return errors.Join(errs...)
}

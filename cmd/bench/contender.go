package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/bench/internal/relay"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/lab"
)

// contender is one way for a gateway to treat PPTP.
type contender struct {
	name      string
	nat       bool // the gateway masquerades
	inbound   bool // packets of servers reach clients: with NAT, only an editor makes them
	dialogues bool // calls become known by control messages
	queued    bool // packets visit user space
	floor     bool // the sink stands where packets enter the gateway
	// fast is the path that packets have to take in the fast path, as metrics name it; ""
	// where there is none.
	fast   string
	mapped bool // a rule translates addresses, and nothing else does: see mapping
	plain  bool // packets are no call's: GRE of version 0
	// start makes the gateway treat PPTP so. Calls can be set up when it returns.
	start func(ctx context.Context, y *yard, calls []farm.Call) (worker, error)
}

// worker is what works for a contender in user space.
type worker interface {
	io.Closer
	clocks() []clock.Process // whose time is the contender's
}

// forwarder is a worker with a fast path.
type forwarder interface {
	forwarded(path string) (uint64, error) // packets
}

// nobody works where the kernel does it all.
type nobody struct{}

func (nobody) Close() error            { return nil }
func (nobody) clocks() []clock.Process { return nil }

const (
	nameFloor   = "generator, cable and sink alone"
	nameForward = "plain IP forwarding, no conntrack"
	nameNAT     = "NAT without an editor"
	nameHelper  = "kernel helper"
	nameKernel  = "pptpalg, data path kernel"
	nameQueue   = "pptpalg, data path queue"
	nameGoQueue = "GRE through plain go-nfqueue"
	nameRelay   = "XDP forwarding without NAT"
	nameXDP     = "fast path, XDP"
	nameTC      = "fast path, tc"

	beforeSuffix = ", before" // the same, with an earlier program
)

// contenders lists them in the order of the tables.
func contenders(p programs) []contender {
	return []contender{
		{name: nameFloor, inbound: true, floor: true, start: nothing},
		{name: nameForward, inbound: true, start: noConntrack},
		{name: nameRelay, inbound: true, start: startRelay},
		{name: nameNAT, nat: true, start: nothing},
		{name: nameHelper, nat: true, inbound: true, dialogues: true, start: helper},
		{name: nameKernel, nat: true, inbound: true, dialogues: true, start: p.daemon("kernel")},
		{name: nameXDP, nat: true, inbound: true, dialogues: true, fast: "xdp", start: p.fastPath("xdp")},
		{name: nameTC, nat: true, inbound: true, dialogues: true, fast: "tc", start: p.fastPath("tc")},
		{name: nameQueue, nat: true, inbound: true, dialogues: true, queued: true, start: p.daemon("queue")},
		{name: nameGoQueue, nat: true, inbound: true, queued: true, start: p.goQueue},
	}
}

// earlier returns the contenders that an earlier pptpalg is, none without a program.
func earlier(program string) []contender {
	if program == "" {
		return nil
	}
	of := programs{pptpalg: program}
	return []contender{
		{name: nameKernel + beforeSuffix, nat: true, inbound: true, dialogues: true, start: of.daemon("kernel")},
		{name: nameQueue + beforeSuffix, nat: true, inbound: true, dialogues: true, queued: true, start: of.daemon("queue")},
	}
}

// only returns the named contenders.
func only(all []contender, names ...string) []contender {
	var some []contender
	for _, c := range all {
		for _, name := range names {
			if c.name == name {
				some = append(some, c)
			}
		}
	}
	return some
}

func (c contender) options() lab.Options { return lab.Options{Masquerade: c.nat} }

func nothing(context.Context, *yard, []farm.Call) (worker, error) { return nobody{}, nil }

// noConntrack takes out the rules for which the kernel tracks connections.
func noConntrack(ctx context.Context, y *yard, _ []farm.Call) (worker, error) {
	for _, table := range []string{"nat", "filter"} {
		if err := y.Gateway.IPTables(ctx, "-t", table, "-F"); err != nil {
			return nil, err
		}
	}
	return nobody{}, nil
}

// relaying is a worker although the kernel does it all: it has to be detached.
type relaying struct{ *relay.Relay }

func (relaying) clocks() []clock.Process { return nil }

func startRelay(ctx context.Context, y *yard, _ []farm.Call) (worker, error) {
	if _, err := noConntrack(ctx, y, nil); err != nil {
		return nil, err
	}
	var r relaying
	err := y.Gateway.Do(func() (err error) {
		r.Relay, err = relay.New(y.cardOf(y.Gateway, gatewayLAN), y.cardOf(y.Gateway, gatewayWAN))
		return err
	})
	return r, err
}

func helper(ctx context.Context, y *yard, _ []farm.Call) (worker, error) {
	return nobody{}, y.AttachKernelHelper(ctx)
}

// programs are the paths of what contenders run.
type programs struct {
	pptpalg string
	self    string // this program
}

// daemon starts pptpalg. A freed Call ID rests for a second only, so that calls
// can be set up by the thousand each second.
func (p programs) daemon(path string) func(context.Context, *yard, []farm.Call) (worker, error) {
	return func(_ context.Context, y *yard, _ []farm.Call) (worker, error) {
		return startDaemon(y.Gateway, p.pptpalg, ofDaemon(path)...)
	}
}

func ofDaemon(path string) []string {
	return []string{"--datapath", path, "--rest", "1s", "--max-requests", "1000000"}
}

// fastPath starts pptpalg with the fast path. Few measurements meet the end of its interval.
func (p programs) fastPath(mode string) func(context.Context, *yard, []farm.Call) (worker, error) {
	return func(_ context.Context, y *yard, _ []farm.Call) (worker, error) {
		flows := max(fastpath.DefaultFlows, 2*y.room)
		return startDaemon(y.Gateway, p.pptpalg, append(ofDaemon("kernel"), "--fastpath", mode,
			"--fastpath-interfaces", gatewayLAN+","+gatewayWAN, "--fastpath-interval", "30s", "--fastpath-flows", strconv.Itoa(flows))...)
	}
}

// invent makes up calls as dialogues would have made them, for contenders that
// know of calls without them.
func (c contender) invent(y *yard, n int) []farm.Call {
	calls := make([]farm.Call, n)
	for i := range calls {
		call := farm.Call{
			Client: y.clients[i%clientCount], Server: y.servers[i%serverCount],
			Own: pptp.CallID(i/clientCount + 1), ServerID: pptp.CallID(i/serverCount + 1),
		}
		call.Public, call.PublicID = call.Client, call.Own
		switch {
		case c.nat:
			call.Public = lab.GatewayPublic
		case c.mapped:
			call.Public = mapped(call.Client)
		}
		if c.queued {
			call.PublicID = pptp.CallID(i + 1)
		}
		calls[i] = call
	}
	return calls
}

// direction is a way through the gateway.
type direction uint8

const (
	outward direction = iota // client to server
	inward                   // server to client
)

func (d direction) String() string {
	switch d {
	case outward:
		return "client → server"
	case inward:
		return "server → client"
	}
	return fmt.Sprintf("unknown(%d)", uint8(d))
}

func (c contender) directions() []direction {
	if c.inbound {
		return []direction{outward, inward}
	}
	return []direction{outward}
}

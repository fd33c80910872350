package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"pptpalg/alg/packet"
	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/bench/internal/inject"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
)

// otherRun says how to measure what the fast path costs packets that are not a call's.
type otherRun struct {
	rounds int
	window time.Duration
	repeat int // runs of a program in one measurement
}

const (
	nameEmpty   = "with an empty program for XDP"
	nameOnlyXDP = "with the program for XDP alone"
	nameAllXDP  = "with the fast path, XDP"
	nameAllTC   = "with the fast path, tc"
)

// routers lists routers with the fast path, and one without to compare them with.
func routers() []contender {
	return []contender{
		{name: nameForward, inbound: true, plain: true, start: noConntrack},
		{name: nameEmpty, inbound: true, plain: true, start: besideEmpty},
		{name: nameOnlyXDP, inbound: true, plain: true, start: onlyXDP},
		{name: nameAllXDP, inbound: true, plain: true, start: beside(ports.XDP)},
		{name: nameAllTC, inbound: true, plain: true, start: beside(ports.TC)},
	}
}

// attached is programs on a gateway's ports.
type attached []io.Closer

func (attached) clocks() []clock.Process { return nil }

func (a attached) Close() error {
	var errs []error
	for _, c := range a {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// besideEmpty has a router let all pass by XDP: what the hook costs without a program's work.
func besideEmpty(ctx context.Context, y *yard, all []farm.Call) (worker, error) {
	if _, err := noConntrack(ctx, y, all); err != nil {
		return nil, err
	}
	p, err := empty(ebpf.XDP)
	if err != nil {
		return nil, err
	}
	a := attached{p}
	err = y.Gateway.Do(func() error {
		for _, port := range []string{gatewayLAN, gatewayWAN} {
			l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: y.cardOf(y.Gateway, port).Index, Flags: link.XDPDriverMode})
			if err != nil {
				return fmt.Errorf("attach an empty program to %s: %w", port, err)
			}
			a = append(a, l)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// empty loads a program that lets all pass.
func empty(kind ebpf.ProgramType) (*ebpf.Program, error) {
	verdict := map[ebpf.ProgramType]int32{ebpf.XDP: 2, ebpf.SchedCLS: -1}[kind] // XDP_PASS, TCX_NEXT
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load an empty program: %w", err)
	}
	return p, nil
}

// beside has a router load the fast path, which has nothing to forward.
func beside(mode ports.Mode) func(context.Context, *yard, []farm.Call) (worker, error) {
	return func(ctx context.Context, y *yard, all []farm.Call) (worker, error) {
		if _, err := noConntrack(ctx, y, all); err != nil {
			return nil, err
		}
		return load(y, mode, fastpath.DefaultFlows)
	}
}

// onlyXDP is beside without the programs that learn.
func onlyXDP(ctx context.Context, y *yard, all []farm.Call) (worker, error) {
	w, err := beside(ports.XDP)(ctx, y, all)
	if err != nil {
		return nil, err
	}
	err = y.Gateway.Do(func() error {
		return errors.Join(detach(y.cardOf(y.Gateway, gatewayLAN)), detach(y.cardOf(y.Gateway, gatewayWAN)))
	})
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// detach detaches what looks at the packets that an interface sends, in the calling thread's
// namespace.
func detach(i net.Interface) error {
	have, err := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("list programs of %s: %w", i.Name, err)
	}
	for _, p := range have.Programs {
		id, _ := p.LinkID()
		l, err := link.NewFromID(id)
		if err != nil {
			return fmt.Errorf("open link of program %d of %s: %w", p.ID, i.Name, err)
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			return fmt.Errorf("detach program %d of %s: %w", p.ID, i.Name, err)
		}
	}
	return nil
}

// measure measures and writes the tables.
func (o otherRun) measure(ctx context.Context, r *report) error {
	live := greRun{contenders: routers(), calls: []int{clientCount}, sizes: []int{inject.MinSize}, rounds: o.rounds, window: o.window}
	result, err := live.run(ctx)
	if err != nil {
		return err
	}
	log.Printf("other: programs alone")
	alone, err := o.programs(ctx)
	if err != nil {
		return err
	}
	r.heading(2, "Other traffic beside the fast path")
	o.write(r, live, result)
	writeAlone(r, alone)
	return nil
}

func (o otherRun) write(r *report, live greRun, result greResult) {
	fmt.Fprintf(r, `Packets that belong to no call (GRE version 0), through a router without conntrack:
nanoseconds from the generator to the sink, and how many more than without the fast path.
Medians of %d interleaved rounds over both directions; differences are those of a round.

`, o.rounds)
	spent := func(name string) []float64 { return live.both(result, name, inject.MinSize, clientCount) }
	plain := spent(nameForward)
	var rows [][]string
	for _, c := range live.contenders {
		rows = append(rows, []string{c.name, count(median(spent(c.name))), count(difference(spent(c.name), plain)), times(ratio(spent(c.name), plain))})
	}
	r.table([]string{"", "ns per packet", "more", "ratio"}, rows)
	for _, a := range []struct {
		name  string
		limit float64
	}{{nameOnlyXDP, 30}, {nameAllXDP, 100}, {nameAllTC, 100}} {
		r.aim(target{what: "other traffic, CPU per packet, more " + a.name, is: difference(spent(a.name), plain), limit: a.limit, unit: " ns"})
	}
}

// hooks are where programs are, in the order of the table.
var hooks = []string{"XDP", "tc, received", "tc, sent"}

// alone is how many nanoseconds more than an empty one the program of a hook takes for a
// kind of packet.
type alone struct {
	packet string
	by     map[string]float64
}

func writeAlone(r *report, all []alone) {
	fmt.Fprint(r, "\nThe programs alone (BPF_PROG_TEST_RUN), nanoseconds more than a program that passes everything:\n\n")
	var rows [][]string
	most := 0.0
	for _, a := range all {
		row := []string{a.packet}
		for _, hook := range hooks {
			row = append(row, count(a.by[hook]))
		}
		rows = append(rows, row)
		most = max(most, a.by["XDP"])
	}
	r.table(append([]string{""}, hooks...), rows)
	r.aim(target{what: "other traffic, the program for XDP alone", is: most, limit: 30, unit: " ns"})
}

// programs runs the programs by themselves.
func (o otherRun) programs(ctx context.Context) (all []alone, err error) {
	y, err := newYard(ctx, contender{}.options())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, y.Close()) }()
	found := make(map[string]*ebpf.Program)
	defer func() { err = errors.Join(err, closePrograms(found)) }()
	for _, mode := range []ports.Mode{ports.XDP, ports.TC} {
		l, err := load(y, mode, fastpath.DefaultFlows)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(find(ctx, y, found), l.Close()); err != nil {
			return nil, err
		}
	}
	err = y.Gateway.Do(func() error {
		all, err = o.runAll(found)
		return err
	})
	return all, err
}

func closePrograms(all map[string]*ebpf.Program) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// find opens the programs of the gateway's LAN port that are not among found, which it
// adds to.
func find(ctx context.Context, y *yard, found map[string]*ebpf.Program) error {
	ids, err := tcPrograms(y)
	if err != nil {
		return err
	}
	if ids[hooks[0]], err = xdpProgram(ctx, y); err != nil {
		return err
	}
	for hook, id := range ids {
		if found[hook] != nil || id == 0 {
			continue
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return fmt.Errorf("open program %d: %w", id, err)
		}
		found[hook] = p
	}
	return nil
}

func tcPrograms(y *yard) (map[string]ebpf.ProgramID, error) {
	ids := make(map[string]ebpf.ProgramID)
	err := y.Gateway.Do(func() error {
		for hook, at := range map[string]ebpf.AttachType{hooks[1]: ebpf.AttachTCXIngress, hooks[2]: ebpf.AttachTCXEgress} {
			have, err := link.QueryPrograms(link.QueryOptions{Target: y.cardOf(y.Gateway, gatewayLAN).Index, Attach: at})
			if err != nil {
				return fmt.Errorf("list programs: %w", err)
			}
			for _, p := range have.Programs {
				ids[hook] = p.ID
			}
		}
		return nil
	})
	return ids, err
}

// xdpProgram returns the number of the XDP program, 0 if there is none.
func xdpProgram(ctx context.Context, y *yard) (ebpf.ProgramID, error) {
	out, err := y.Gateway.Run(ctx, "ip", "-json", "link", "show", "dev", gatewayLAN)
	if err != nil {
		return 0, err
	}
	var links []struct {
		XDP struct {
			Prog struct{ ID ebpf.ProgramID }
		}
	}
	if err := json.Unmarshal([]byte(out.Stdout), &links); err != nil || len(links) != 1 {
		return 0, fmt.Errorf("read links: %w: %s", err, out.Stdout)
	}
	return links[0].XDP.Prog.ID, nil
}

func (o otherRun) runAll(programs map[string]*ebpf.Program) (all []alone, err error) {
	empties := make(map[string]*ebpf.Program)
	defer func() { err = errors.Join(err, closePrograms(empties)) }()
	for hook, p := range programs {
		if empties[hook], err = empty(p.Type()); err != nil {
			delete(empties, hook)
			return nil, err
		}
	}
	return o.compare(programs, empties)
}

// compare runs both kinds of programs on packets that are not on the fast path.
func (o otherRun) compare(programs, empties map[string]*ebpf.Program) (all []alone, err error) {
	for _, kind := range []struct {
		name     string
		ethernet uint16
		protocol byte
	}{
		{"TCP", 0x0800, packet.ProtocolTCP}, {"UDP", 0x0800, 17}, {"ARP", 0x0806, 0}, {"GRE of no call on record", 0x0800, packet.ProtocolGRE},
	} {
		frame := inject.OfProtocol(kind.ethernet, kind.protocol)
		a := alone{kind.name, make(map[string]float64)}
		for hook, p := range programs {
			with, err := o.fastest(p, frame)
			if err != nil {
				return nil, err
			}
			without, err := o.fastest(empties[hook], frame)
			if err != nil {
				return nil, err
			}
			a.by[hook] = float64(with - without)
		}
		all = append(all, a)
	}
	return all, nil
}

// fastest is how long one run of a program takes, the least of several measurements.
func (o otherRun) fastest(p *ebpf.Program, frame []byte) (least time.Duration, err error) {
	for i := range 7 {
		_, took, err := p.Benchmark(frame, o.repeat, nil)
		if err != nil {
			return 0, fmt.Errorf("run %v: %w", p, err)
		}
		if i == 0 || took < least {
			least = took
		}
	}
	return least, nil
}

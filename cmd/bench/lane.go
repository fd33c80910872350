package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/bench/internal/inject"
	"pptpalg/cmd/internal/lab"

	"golang.org/x/sys/unix"
)

const (
	// heldAtOnce is how many calls are set up before each has carried a packet. The
	// kernel's helper expects two connections for a call until then, and the kernel
	// knows 4096 expectations by default.
	heldAtOnce = 1000
	// checked is how many delivered packets are looked at before anything is timed.
	checked = 128

	burst     = 512 // packets of one send; less than any queue holds
	burstSlow = 128 // less than a veth holds (VETH_RING_SIZE, 256)
	// slowPacket is from when on a batch of 64 live frames takes longer than a soft
	// interrupt may run (2 ms), and so piles up before the gateway.
	slowPacket = 15 * time.Microsecond

	leastPackets = 512 // of a measurement, however long they take

	// lostAfter is for how long nothing arrives when the rest is lost. 64 packets come together, and
	// with 50,000 calls the helper takes some 10 ms for each.
	lostAfter = 3 * time.Second
	pollEvery = 150 * time.Microsecond

	// settling is longer than the kernel's tick, before which the fast path does not
	// begin to forward what the kernel has just forwarded.
	settling = 20 * time.Millisecond
	// fastShare is the part of packets that must take the fast path, at least.
	fastShare = 0.95
)

// kind is a kind of packets that are measured by themselves.
type kind struct {
	direction direction
	size      int // with its IP header, bytes
}

func (k kind) String() string { return fmt.Sprintf("%v, %d bytes", k.direction, k.size) }

// lane is a contender with its yard and calls, ready to be measured.
type lane struct {
	contender
	*yard
	worker     worker
	calls      []farm.Call
	softIRQ    []clock.Process
	sinks      map[direction]*inject.Sink
	generators map[kind]*inject.Generator
	inOrder    map[kind]*inject.Generator // where calls have to be made known: see warm
	burst      map[kind]int
	closers    []io.Closer // closed in reverse order
}

// openLane builds a lane with n calls, and checks that each kind of packets is
// delivered as it should be.
func openLane(ctx context.Context, c contender, n int, sizes []int) (*lane, error) {
	l := &lane{
		contender: c, sinks: make(map[direction]*inject.Sink), burst: make(map[kind]int),
		generators: make(map[kind]*inject.Generator), inOrder: make(map[kind]*inject.Generator),
	}
	if err := l.open(ctx, n, sizes); err != nil {
		return nil, fmt.Errorf("prepare %s with %d calls: %w", c.name, n, errors.Join(err, l.Close()))
	}
	return l, nil
}

func (l *lane) open(ctx context.Context, n int, sizes []int) (err error) {
	if l.softIRQ, err = clock.SoftIRQ(); err != nil {
		return err
	}
	if l.yard, err = newYard(ctx, l.options()); err != nil {
		return err
	}
	l.closers = append(l.closers, l.yard)
	l.room = n
	if err := l.attachSinks(); err != nil {
		return err
	}
	if err := l.connect(ctx, n); err != nil {
		return err
	}
	for _, d := range l.directions() {
		for _, size := range sizes {
			if err := l.prepare(kind{d, size}); err != nil {
				return fmt.Errorf("%v: %w", kind{d, size}, err)
			}
		}
	}
	return nil
}

// from is where packets of a direction are injected, to where they are caught.
func (l *lane) from(d direction) *lab.Host {
	if d == outward {
		return l.client()
	}
	return l.server()
}

func (l *lane) to(d direction) (*lab.Host, string) {
	switch {
	case l.floor && d == outward:
		return l.Gateway, gatewayLAN
	case l.floor:
		return l.Gateway, gatewayWAN
	case d == outward:
		return l.server(), hostsDevice
	}
	return l.client(), hostsDevice
}

func (l *lane) attachSinks() error {
	for _, d := range []direction{outward, inward} {
		host, device := l.to(d)
		err := host.Do(func() (err error) {
			l.sinks[d], err = inject.NewSink(l.cardOf(host, device).Index)
			return err
		})
		if err != nil {
			return err
		}
		l.closers = append(l.closers, l.sinks[d])
	}
	return nil
}

// connect gives the contender its calls: by dialogues, upon each of which follows
// the call's first packet, or made up.
func (l *lane) connect(ctx context.Context, n int) (err error) {
	if !l.dialogues {
		l.calls = l.invent(l.yard, n)
	}
	if l.worker, err = l.start(ctx, l.yard, l.calls); err != nil {
		return err
	}
	l.closers = append(l.closers, l.worker)
	for l.dialogues && len(l.calls) < n {
		some, err := l.farm.Hold(len(l.calls), min(heldAtOnce, n-len(l.calls)))
		if err != nil {
			return err
		}
		l.calls = append(l.calls, some...)
		if err := l.first(outward, some); err != nil {
			return err
		}
	}
	for _, d := range l.unseen() {
		if err := l.first(d, l.calls); err != nil {
			return err
		}
	}
	return nil
}

// unseen lists the directions in which no packet has passed when the dialogues are over,
// and one would have the gateway remember more. The helper's connections go both ways.
func (l *lane) unseen() []direction {
	switch {
	case !l.dialogues:
		return l.directions()
	case l.queued:
		return []direction{inward}
	}
	return nil
}

// first sends one packet of each call, so that what a first packet costs is over.
func (l *lane) first(d direction, calls []farm.Call) error {
	g, err := l.generator(kind{d, inject.MinSize}, calls, true)
	if err != nil {
		return err
	}
	defer g.Close()
	return l.armed(g, d, func() error {
		for sent := 0; sent < len(calls); {
			n := min(burstSlow, len(calls)-sent)
			if lost, err := l.send(g, d, n); err != nil || lost > 0 {
				return errors.Join(err, fmt.Errorf("send the first packet of each call: %d of %d lost", lost, n))
			}
			sent += n
		}
		return nil
	})
}

func (l *lane) generator(k kind, calls []farm.Call, inOrder bool) (*inject.Generator, error) {
	near := l.cardOf(l.from(k.direction), hostsDevice)
	port := gatewayLAN
	if k.direction == inward {
		port = gatewayWAN
	}
	s := inject.Stream{
		Size: k.size, Interface: near.Index, From: near.HardwareAddr, To: l.cardOf(l.Gateway, port).HardwareAddr, InOrder: inOrder,
	}
	for _, c := range calls {
		s.Packets = append(s.Packets, l.sent(k.direction, c))
	}
	return inject.NewGenerator(s)
}

// sent is a call's packet as its sender sends it.
func (l *lane) sent(d direction, c farm.Call) inject.Packet {
	if d == outward {
		return inject.Packet{Src: c.Client, Dst: c.Server, Key: c.ServerID, Plain: l.plain}
	}
	return inject.Packet{Src: c.Server, Dst: c.Public, Key: c.PublicID, Plain: l.plain}
}

// due is a call's packet as its receiver is to get it.
func (l *lane) due(d direction, c farm.Call) inject.Packet {
	switch {
	case l.floor:
		return l.sent(d, c)
	case d == outward:
		return inject.Packet{Src: c.Public, Dst: c.Server, Key: c.ServerID, Plain: l.plain}
	}
	return inject.Packet{Src: c.Server, Dst: c.Client, Key: c.Own, Plain: l.plain}
}

// prepare loads the generator of a kind of packets, checks what it delivers, and
// chooses how many it sends at once.
func (l *lane) prepare(k kind) error {
	g, err := l.generator(k, l.calls, false)
	if err != nil {
		return err
	}
	l.generators[k] = g
	l.closers = append(l.closers, g)
	if err := l.prepareFast(k); err != nil {
		return err
	}
	return l.armed(g, k.direction, func() error {
		if err := l.check(k); err != nil {
			return err
		}
		from := time.Now()
		lost, err := l.send(g, k.direction, burstSlow)
		if err != nil || lost > 0 {
			return errors.Join(err, fmt.Errorf("try %d packets: %d lost", burstSlow, lost))
		}
		l.burst[k] = burst
		if !l.queued && time.Since(from)/burstSlow > slowPacket {
			l.burst[k] = burstSlow
		}
		return nil
	})
}

// prepareFast makes sure that packets of a kind take the fast path, where there is one.
func (l *lane) prepareFast(k kind) error {
	if l.fast == "" {
		return nil
	}
	g, err := l.generator(k, l.calls, true)
	if err != nil {
		return err
	}
	l.inOrder[k] = g
	l.closers = append(l.closers, g)
	var share float64
	err = lab.Poll(readyTime, func() bool {
		share, err = l.share(k)
		return err != nil || share >= fastShare
	})
	if err != nil {
		return fmt.Errorf("%.2f of the packets take the fast path: %w", share, err)
	}
	return nil
}

// share warms up and returns the part of some packets that takes the fast path.
func (l *lane) share(k kind) (share float64, err error) {
	w, ok := l.worker.(forwarder)
	if !ok {
		return 0, fmt.Errorf("%s does not tell what takes the fast path", l.name)
	}
	if err := l.warm(k); err != nil {
		return 0, err
	}
	before, err := w.forwarded(l.fast)
	if err != nil {
		return 0, err
	}
	err = l.armed(l.generators[k], k.direction, func() error {
		_, err := l.send(l.generators[k], k.direction, burstSlow)
		return err
	})
	if err != nil {
		return 0, err
	}
	after, err := w.forwarded(l.fast)
	return float64(after-before) / burstSlow, err
}

// warm sends packets of each call, for which the fast path asks the kernel if it has not
// lately: with calls by the thousand most of a short measurement's packets would be the
// first for long. One packet is not enough: the fast path waits for a pause to ask.
func (l *lane) warm(k kind) error {
	g := l.inOrder[k]
	if g == nil {
		return nil
	}
	return l.armed(g, k.direction, func() error {
		for range 2 {
			for sent := 0; sent < len(l.calls); sent += burst {
				if _, err := l.send(g, k.direction, min(burst, len(l.calls)-sent)); err != nil {
					return err
				}
			}
			pause(settling)
		}
		return nil
	})
}

// check sends some packets and looks at each that arrives.
func (l *lane) check(k kind) error {
	sink, g := l.sinks[k.direction], l.generators[k]
	if err := sink.Show(true); err != nil {
		return err
	}
	lost, err := l.send(g, k.direction, checked)
	if err := errors.Join(err, sink.Show(false)); err != nil {
		return err
	}
	if lost > 0 {
		return fmt.Errorf("check delivered packets: %d of %d lost", lost, checked)
	}
	hops := 1
	if l.floor {
		hops = 0
	}
	for range checked {
		p, err := sink.Next(time.Second)
		if err != nil {
			return fmt.Errorf("check delivered packets: %w", err)
		}
		if int(p.Seq) >= len(l.calls) || p.Packet != l.due(k.direction, l.calls[p.Seq]) || p.Hops != hops {
			return fmt.Errorf("check delivered packets: got %v of call %d over %d hops, call is %+v", p.Packet, p.Seq, p.Hops, l.calls[min(int(p.Seq), len(l.calls)-1)])
		}
	}
	return nil
}

// armed runs f on a thread in the sender's namespace, with the generator ready to
// fire.
func (l *lane) armed(g *inject.Generator, d direction, f func() error) error {
	return l.from(d).Do(func() error {
		trigger, err := g.Arm()
		if err != nil {
			return err
		}
		return errors.Join(f(), trigger.Close())
	})
}

// send sends n packets and waits until they have arrived, or nothing arrives any
// more. It is for a thread in the sender's namespace.
func (l *lane) send(g *inject.Generator, d direction, n int) (lost int, err error) {
	sink := l.sinks[d]
	before, err := sink.Count()
	if err != nil {
		return 0, err
	}
	if err := g.Send(n); err != nil {
		return 0, err
	}
	last, quiet := before, time.Now()
	for {
		count, err := sink.Count()
		if err != nil {
			return 0, err
		}
		if count >= before+uint64(n) {
			return 0, nil
		}
		if count != last {
			last, quiet = count, time.Now()
		} else if time.Since(quiet) > lostAfter {
			return int(before + uint64(n) - count), nil
		}
		pause(pollEvery)
	}
}

// pause sleeps on the thread itself: a goroutine that is locked to its thread
// sleeps dearly.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&t, nil) // woken early it looks again earlier
}

// sample is what one measurement has found.
type sample struct {
	perPacket time.Duration // CPU time from generator to sink
	arrived   int
	lost      int
}

// measure sends packets of a kind for a while.
func (l *lane) measure(k kind, window time.Duration) (s sample, err error) {
	if err := l.warm(k); err != nil {
		return s, err
	}
	err = l.armed(l.generators[k], k.direction, func() error {
		before, err := l.used()
		if err != nil {
			return err
		}
		for from := time.Now(); time.Since(from) < window || s.arrived < leastPackets; {
			lost, err := l.send(l.generators[k], k.direction, l.burst[k])
			if err != nil {
				return err
			}
			s.lost += lost
			s.arrived += l.burst[k] - lost
		}
		after, err := l.used()
		s.perPacket = (after - before) / time.Duration(max(s.arrived, 1))
		return err
	})
	if err == nil && s.arrived == 0 {
		err = errors.New("nothing has arrived")
	}
	if err != nil {
		return sample{}, fmt.Errorf("measure %s, %v: %w", l.name, k, err)
	}
	return s, nil
}

// used is the CPU time of the calling thread, ksoftirqd and the contender's own
// processes.
func (l *lane) used() (time.Duration, error) {
	own, err := clock.Thread()
	if err != nil {
		return 0, err
	}
	others, err := clock.Sum(slices.Concat(l.softIRQ, l.worker.clocks()))
	return own + others, err
}

// Close ends the worker and takes the yard down.
func (l *lane) Close() error {
	var errs []error
	for _, c := range slices.Backward(l.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

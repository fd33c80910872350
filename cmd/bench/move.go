package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/internal/lab"
)

const (
	beatEvery = 2 * time.Millisecond
	beatLines = 4 // calls whose packets are looked at, each both ways
	beatTime  = 400 * time.Millisecond
)

// pulse is calls both ends of which send packets all the time.
type pulse struct {
	lines []*farm.Line
	beats []*beat
}

// beat is one direction of a call.
type beat struct {
	from, to   *lab.GRE
	sent, seen lab.Packet // as it leaves, and as it arrives but for what is different in each
}

// pulse has clients place calls.
func (p *pair) pulse() (*pulse, error) {
	b := new(pulse)
	for i := range beatLines {
		if err := b.add(p, i); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

func (b *pulse) add(p *pair, i int) error {
	l, err := p.farm.Dial(i, 1)
	if err != nil {
		return err
	}
	b.lines = append(b.lines, l)
	client, err := lab.OpenGRE(p.Inside[0], l.Client)
	if err != nil {
		return err
	}
	server, err := lab.OpenGRE(p.Outside[0], l.Server)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	b.beats = append(b.beats,
		&beat{from: client, to: server, sent: lab.Packet{Dst: l.Server, CallID: l.ServerID}, seen: lab.Packet{Src: l.Public, CallID: l.ServerID}},
		&beat{from: server, to: client, sent: lab.Packet{Dst: l.Public, CallID: l.PublicID}, seen: lab.Packet{Src: l.Server, CallID: l.Own}})
	return nil
}

// Close closes its sockets and connections.
func (b *pulse) Close() error {
	var errs []error
	for _, each := range b.beats {
		errs = append(errs, each.from.Close())
	}
	for _, l := range b.lines {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// start has all send until they are stopped.
func (b *pulse) start() (stop func()) {
	quit := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for n := uint32(0); ; n++ {
			for _, each := range b.beats {
				packet := each.sent
				packet.Seq, packet.Payload = new(n), []byte("beat")
				_ = each.from.Send(packet) // what does not arrive tells
			}
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		sending.Wait()
	}
}

// judge returns how many packets are missing between the first and the last of their direction, of
// how many, and the longest time between two.
func (b *pulse) judge() (lost, sent int, silence time.Duration, err error) {
	for _, each := range b.beats {
		l, s, longest, err := each.judge()
		if err != nil {
			return 0, 0, 0, err
		}
		lost, sent, silence = lost+l, sent+s, max(silence, longest)
	}
	return lost, sent, silence, nil
}

func (b *beat) judge() (lost, sent int, silence time.Duration, err error) {
	var last time.Time
	var from, to uint32
	arrived := 0
	for _, p := range b.to.Waiting() {
		if p.Seq == nil || p.Src != b.seen.Src || p.CallID != b.seen.CallID {
			continue
		}
		if arrived == 0 {
			from, to, last = *p.Seq, *p.Seq, p.Arrival
		}
		arrived++
		from, to = min(from, *p.Seq), max(to, *p.Seq)
		silence = max(silence, p.Arrival.Sub(last))
		last = p.Arrival
	}
	if arrived < 2 {
		return 0, 0, 0, fmt.Errorf("%d packets have arrived in call %v from %v", arrived, b.seen.CallID, b.seen.Src)
	}
	sent = int(to-from) + 1
	return sent - arrived, sent, silence, nil
}

// moved is what is seen of moves of the addresses, each value of one move.
type moved struct {
	silence, move, beyond []float64 // beyond: what the silence is longer than the move
	lost, sent            int
}

// swaps moves the addresses while packets pass, and has all calls cleared afterwards.
func (m *moved) swap(p *pair, leave func() error) (err error) {
	b, err := p.pulse()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := p.well(); err != nil {
		return err
	}
	stop := b.start()
	time.Sleep(beatTime)
	_, move, err := p.swap(leave)
	time.Sleep(beatTime)
	stop()
	if err != nil {
		return err
	}
	time.Sleep(50 * beatEvery) // what is under way arrives
	lost, sent, silence, err := b.judge()
	if err != nil {
		return err
	}
	m.lost, m.sent = m.lost+lost, m.sent+sent
	m.silence, m.move, m.beyond = append(m.silence, float64(silence)), append(m.move, float64(move)), append(m.beyond, float64(silence-move))
	for _, l := range b.lines {
		if _, err := l.Echo(); err != nil {
			return fmt.Errorf("after the move: %w", err)
		}
		if err := l.Clear(); err != nil {
			return fmt.Errorf("after the move: %w", err)
		}
	}
	return nil
}

// day is how many Echo-Requests a control connection has in a day, one a minute.
const day = 24 * 60

// returns has the addresses move, as much pass on the control connections as in a day, and the addresses
// move back. It returns how long the first Echo of each connection takes then.
func (p *pair) returns() (waits []float64, err error) {
	b, err := p.pulse()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := p.well(); err != nil {
		return nil, err
	}
	if _, _, err := p.swap(p.drop); err != nil {
		return nil, err
	}
	for _, l := range b.lines {
		for range day {
			if _, err := l.Echo(); err != nil {
				return nil, fmt.Errorf("away: %w", err)
			}
		}
	}
	if _, _, err := p.swap(p.drop); err != nil {
		return nil, err
	}
	for _, l := range b.lines {
		wait, err := l.Echo()
		waits = append(waits, float64(wait))
		if err = errors.Join(err, l.Clear()); err != nil {
			return nil, fmt.Errorf("after the return: %w", err)
		}
	}
	return waits, nil
}

// move measures for how long packets are missing while addresses move.
func (c clusterRun) move(ctx context.Context, r *report) (err error) {
	t, err := openTalker(ctx, nameWarm, c.program, true, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	var orderly, deaths moved
	for i := range c.moves {
		log.Printf("cluster: move %d of %d", i+1, c.moves)
		if err := orderly.swap(t.pair, t.drop); err != nil {
			return err
		}
	}
	for i := range c.deaths {
		log.Printf("cluster: death %d of %d of a gateway", i+1, c.deaths)
		if err := deaths.swap(t.pair, t.die); err != nil {
			return err
		}
		if err := errors.Join(t.Join(ctx, t.other.host), t.other.start(), t.other.ready()); err != nil {
			return err
		}
	}
	log.Printf("cluster: a gateway has its addresses back after a day")
	waits, err := t.returns()
	if err != nil {
		return err
	}
	r.heading(3, "the addresses move")
	fmt.Fprintf(r, `%d calls; each end sends a packet every %v. In an orderly move, ip(8) takes the addresses from one gateway and
gives them to the other. When a gateway dies, its daemon gets SIGKILL and its links are cut, and the other
gets the addresses at once. The move lasts until the neighbours have been told of it. Milliseconds.

`, beatLines, beatEvery)
	var rows [][]string
	for _, each := range []struct {
		name string
		*moved
	}{{fmt.Sprintf("orderly, %d times", c.moves), &orderly}, {fmt.Sprintf("a gateway dies, %d times", c.deaths), &deaths}} {
		rows = append(rows, []string{
			each.name, millis(median(each.move)), millis(median(each.silence)), millis(quantile(each.silence, 1)), millis(quantile(each.beyond, 1)),
			fmt.Sprintf("%s of %s", count(float64(each.lost)), count(float64(each.sent))),
		})
	}
	r.table([]string{"", "the move", "longest silence, median", "longest silence", "longest beyond the move", "packets lost"}, rows)
	fmt.Fprintf(r, `
Afterwards each call got an Echo, and was cleared; the server named the right call. A gateway got its addresses
back after the other one had passed as many Echos on each control connection as in a day, %s: the first Echo
then took at most %s ms.
`, count(day), millis(quantile(waits, 1)))
	r.aim(target{what: "first Echo where a gateway has its addresses back after a day", is: quantile(waits, 1) / 1e9, limit: 0.1, unit: " s"})
	r.aim(target{what: "packets lost in orderly moves", is: float64(orderly.lost), limit: 0})
	r.aim(target{what: "longest silence when a gateway dies and its addresses are moved by hand", is: quantile(deaths.silence, 1) / 1e9, limit: 0.1, unit: " s"})
	r.aim(target{what: "silence when a gateway dies, beyond the move of its addresses", is: quantile(deaths.beyond, 1) / 1e6, limit: 20, unit: " ms"})
	return nil
}

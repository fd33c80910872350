package meter

import (
	"cmp"
	"context"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"pptpalg/alg/calls"
)

// How often the meter looks by itself: often while a call is in doubt, seldom while there is no call, and
// in no case so often that it looks for more than one part in share of the time. With that, ten seconds
// after a call has begun to carry one way only it is known. Where there are thousands of calls, it takes
// longer until somebody asks: who lists the calls or reads the metrics has looked.
const (
	often   = time.Second
	usually = 2 * time.Second
	seldom  = 5 * time.Second
	longest = 5 * time.Minute
	share   = 2000
	recent  = time.Minute // of a call that nobody has seen before, what it carried counts as carried now
)

// Source is what the meter looks at. Its functions must be safe to call from any goroutine.
type Source struct {
	Calls   func() iter.Seq[[]calls.View]                // some at a time, in any order; each slice is valid until the next
	Traffic func() (map[calls.Flow]calls.Traffic, error) // what flows have carried, by their Unmarked form
}

// Meter watches what calls carry. It may be used from any goroutine. A nil one knows nothing.
type Meter struct {
	source  Source
	now     func() time.Time
	dropped func() dropped

	mu    sync.Mutex          // guards what follows
	began time.Time           // of moment 0
	at    time.Time           // of the last look
	calls []watched           // in the order of their numbers
	count [len(kindNames)]int // of established calls
	past  past
	big   counter // packets larger than an MTU
	lost  counter // packets that came by another interface than answers would take
}

// counter is a number of the kernel's that only grows.
type counter struct {
	first, last uint64
	known       bool
	grew        time.Time
}

func (c *counter) see(n uint64, at time.Time) {
	if !c.known || n < c.last {
		c.first, c.known = n, true
	} else if n > c.last {
		c.grew = at
	}
	c.last = n
}

// New returns a meter.
func New(s Source) *Meter {
	return &Meter{source: s, now: time.Now, dropped: readDropped}
}

// Run looks until ctx is done.
func (m *Meter) Run(ctx context.Context) error {
	for {
		began := m.now()
		m.look(began)
		took := m.now().Sub(began)
		for rest := m.rest(began, took); rest > 0; rest = m.rest(began, took) { // others may look meanwhile
			pause := time.NewTimer(rest)
			select {
			case <-ctx.Done():
				pause.Stop()
				return nil
			case <-pause.C:
			}
		}
	}
}

// rest is how long the meter rests from now on, if its own last look, or its try of one, took so long.
func (m *Meter) rest(began time.Time, took time.Duration) time.Duration {
	pause := m.pause(took)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.After(began) {
		began = m.at
	}
	return began.Add(took + pause).Sub(m.now())
}

func (m *Meter) look(at time.Time) {
	all := m.source.Calls()
	var carried map[calls.Flow]calls.Traffic
	for some := range all {
		if len(some) > 0 {
			carried, _ = m.source.Traffic() // without it nothing is known this time
			break
		}
	}
	m.ObserveAll(at, all, carried)
	m.countDropped()
}

func (m *Meter) countDropped() {
	now, n := m.now(), m.dropped()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.big.see(n.tooBig, now)
	m.lost.see(n.astray, now)
}

// TooBig returns how many packets the gateway has dropped since the meter began, because they
// were larger than an MTU and must not be fragmented, and when that was last noticed.
func (m *Meter) TooBig() (packets uint64, last time.Time) {
	m.countDropped()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.big.last - m.big.first, m.big.grew
}

// Astray returns how many packets it has dropped because they came by another interface than
// answers would take (rp_filter), and when that was last noticed.
func (m *Meter) Astray() (packets uint64, last time.Time) {
	m.countDropped()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost.last - m.lost.first, m.lost.grew
}

// pause is how long the meter rests after a look that took so long.
func (m *Meter) pause(took time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := seldom
	if len(m.calls) > 0 {
		rest = usually
	}
	for i := range m.calls {
		if m.calls[i].is(doubtful) {
			rest = often
			break
		}
	}
	return min(max(rest, share*took), longest)
}

// Observe takes all calls and what they had carried at a time or later, whoever has looked.
func (m *Meter) Observe(at time.Time, views []calls.View, carried map[calls.Flow]calls.Traffic) {
	m.ObserveAll(at, slices.Values([][]calls.View{views}), carried)
}

// ObserveAll is Observe for calls that come some at a time. A call that comes twice counts once.
func (m *Meter) ObserveAll(at time.Time, all iter.Seq[[]calls.View], carried map[calls.Flow]calls.Traffic) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.Before(m.at) {
		return // somebody has looked later
	}
	if m.began.IsZero() {
		m.began = at.Add(-tenth)
	}
	l := look{m: m, at: at, carried: carried, seen: make([]watched, 0, len(m.calls))}
	for views := range all {
		if carried == nil && len(views) > 0 {
			return // the kernel did not tell
		}
		for i := range views {
			l.see(&views[i])
		}
	}
	l.end()
}

// look is one look at all calls.
type look struct {
	m       *Meter
	at      time.Time
	carried map[calls.Flow]calls.Traffic
	seen    []watched
	went    went
}

// end takes in what was seen.
func (l *look) end() {
	slices.SortFunc(l.seen, func(a, b watched) int { return cmp.Compare(a.number, b.number) })
	l.seen = slices.CompactFunc(l.seen, func(a, b watched) bool { return a.number == b.number })
	m := l.m
	m.at, m.calls, m.count = l.at, slices.Clip(l.seen), [len(kindNames)]int{}
	for i := range m.calls {
		if w := &m.calls[i]; w.is(isUp) {
			m.count[w.kind]++
		}
	}
	m.past.add(l.at, Sample{Calls: len(m.calls), OneWay: m.count[OneWay], Silent: m.count[Silent]}, l.went)
}

// moment returns a time as it is on record.
func (m *Meter) moment(t time.Time) moment {
	return moment(max(t.Sub(m.began)/tenth, math.MinInt32))
}

// time is the opposite of moment.
func (m *Meter) time(at moment) time.Time { return m.began.Add(time.Duration(at) * tenth) }

// find returns what is known of a call. The caller holds mu.
func (m *Meter) find(number uint64) (w *watched, known bool) {
	i, known := slices.BinarySearchFunc(m.calls, number, func(w watched, n uint64) int { return cmp.Compare(w.number, n) })
	if !known {
		return nil, false
	}
	return &m.calls[i], true
}

// see takes what a call has carried.
func (l *look) see(v *calls.View) {
	toPNS, toPAC := v.Ways(l.carried)
	w := watched{number: v.Number}
	before, known := l.m.find(v.Number)
	if known {
		w = *before
	}
	at := l.m.moment(l.at)
	pns, pac := w.see(toPNS, toPAC, at)
	if !known && l.at.Sub(v.Since) > recent {
		pns, pac = fresh{}, fresh{} // it is not known when it was carried
	}
	if v.Control.Src.Addr() != v.PNS.Address {
		pns, pac = pac, pns
	}
	l.went.add(went{pns.bytes, pac.bytes, pns.packets + pac.packets})
	up := v.State == calls.Established
	switch {
	case !up || w.is(isUp):
	case known:
		w.up = at
	default:
		w.up = l.m.moment(v.Since)
	}
	w.set(isUp, up)
	switch {
	case !up:
		w.judged(Unknown, v.State != calls.Clearing)
	case readable(toPNS) && readable(toPAC):
		w.judge(at)
	default:
		w.judged(Unknown, false)
	}
	l.seen = append(l.seen, w)
}

// readable reports whether a count that does not grow tells that nothing came.
func readable(t calls.Traffic) bool { return t.Counted && !t.AtLeast }

// Of returns how a call carries, by its number.
func (m *Meter) Of(number uint64) Carriage {
	if m == nil {
		return Carriage{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, known := m.find(number); known {
		return w.carriage(m.time)
	}
	return Carriage{}
}

// Count returns how many established calls carry in a way.
func (m *Meter) Count(k Kind) int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count[k]
}

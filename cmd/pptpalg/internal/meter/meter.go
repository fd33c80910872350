package meter

import (
	"context"
	"sync"
	"time"

	"pptpalg/alg/calls"
)

// How often the meter looks: often while a call is in doubt, seldom while there is no call, and in
// no case so often that it looks for more than one part in share of the time. With that, whoever
// asks ten seconds after a call has begun to carry one way only is told so.
const (
	often   = time.Second
	usually = 2 * time.Second
	seldom  = 5 * time.Second
	longest = time.Minute
	share   = 500
)

// Source is what the meter looks at. Its functions must be safe to call from any goroutine.
type Source struct {
	Calls   func() []calls.View
	Traffic func() (map[calls.Flow]calls.Traffic, error) // what flows have carried, by their Unmarked form
}

// Meter watches what calls carry. It may be used from any goroutine. A nil one knows nothing.
type Meter struct {
	source  Source
	now     func() time.Time
	dropped func() dropped

	mu    sync.Mutex // guards what follows
	at    time.Time  // of the last look
	pass  uint64
	calls map[uint64]*watched // by their number
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
	return &Meter{source: s, now: time.Now, dropped: readDropped, calls: make(map[uint64]*watched)}
}

// Run looks until ctx is done.
func (m *Meter) Run(ctx context.Context) error {
	for {
		began := m.now()
		m.look(began)
		pause := time.NewTimer(m.pause(m.now().Sub(began)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

func (m *Meter) look(at time.Time) {
	views := m.source.Calls()
	var carried map[calls.Flow]calls.Traffic
	if len(views) > 0 {
		carried, _ = m.source.Traffic() // without it nothing is known this time
	}
	m.Observe(at, views, carried)
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
	for _, w := range m.calls {
		if w.doubtful {
			rest = often
			break
		}
	}
	return min(max(rest, share*took), longest)
}

// Observe takes all calls and what they had carried at a time or later, whoever has looked.
func (m *Meter) Observe(at time.Time, views []calls.View, carried map[calls.Flow]calls.Traffic) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.Before(m.at) || carried == nil && len(views) > 0 {
		return // somebody has looked later
	}
	m.at = at
	m.pass++
	m.count = [len(kindNames)]int{}
	var toClients, toServers uint64
	for i := range views {
		v := &views[i]
		toPNS, toPAC := m.see(v, carried)
		if v.Control.Src.Addr() != v.PNS.Address {
			toPNS, toPAC = toPAC, toPNS
		}
		toClients, toServers = toClients+toPNS, toServers+toPAC
	}
	for number, w := range m.calls {
		if w.pass != m.pass {
			delete(m.calls, number)
		}
	}
	m.past.add(at, Sample{Calls: len(views), OneWay: m.count[OneWay], Silent: m.count[Silent]}, toClients, toServers)
}

// see takes what a call has carried, and returns how many bytes of that are new. The caller
// holds mu.
func (m *Meter) see(v *calls.View, carried map[calls.Flow]calls.Traffic) (pns, pac uint64) {
	toPNS, toPAC := v.Ways(carried)
	w, known := m.calls[v.Number]
	if !known {
		w = new(watched)
		m.calls[v.Number] = w
	}
	w.pass = m.pass
	pns, pac = w.see(toPNS, toPAC, m.at)
	if !known && m.at.Sub(v.Since) > longest {
		pns, pac = 0, 0 // it is not known when it was carried
	}
	if v.State != calls.Established {
		w.carriage, w.doubtful, w.up = Carriage{}, v.State != calls.Clearing, time.Time{}
		return pns, pac
	}
	if w.up.IsZero() {
		w.up = m.at
		if !known {
			w.up = v.Since
		}
	}
	if readable(toPNS) && readable(toPAC) {
		w.judge(m.at)
	} else {
		w.carriage, w.doubtful = Carriage{}, false
	}
	m.count[w.carriage.Kind]++
	return pns, pac
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
	if w := m.calls[number]; w != nil {
		return w.carriage
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

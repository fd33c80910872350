package status

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/meter"
)

const (
	// fresh is how old a snapshot may be to be shown to another viewer.
	fresh = time.Second
	// share limits the time for snapshots to a part of all time, for all viewers together.
	share = 10
	// rateSpan is the longest time over which a rate is still current.
	rateSpan = time.Minute
)

// snapshot is all calls at a time. Only its orders change.
type snapshot struct {
	at      time.Time
	until   time.Time // when another one may be taken
	rows    []row
	states  map[calls.State]int
	counted int            // rows whose packets are counted
	rate    *admin.Traffic // of all rows that have one, both ways; nil if there is none
	figures figures

	hows     map[meter.Kind]int  // how the rows carry
	examples map[meter.Kind]*row // the first of each

	mu     sync.Mutex // guards orders
	orders map[string][]int32
}

// row is a call, with what is sorted and added up.
type row struct {
	*calls.View
	client, server     *calls.Party // client is who opened the control connection
	toClient, toServer way
	how                meter.Carriage
}

// way is what travelled to one end; nil where it is not known.
type way struct{ carried, rate *admin.Traffic }

// bytes is the rate, 0 where it is not known.
func (w way) bytes() uint64 {
	if w.rate == nil {
		return 0
	}
	return w.rate.Bytes
}

// take looks at all calls. before, for the rates, may be nil.
func (p *Page) take(before *snapshot) *snapshot {
	began := p.now()
	views := p.cfg.Calls()
	var carried map[calls.Flow]calls.Traffic
	if len(views) > 0 {
		carried, _ = p.cfg.Traffic() // without it the calls are shown uncounted
	}
	p.cfg.Meter.Observe(began, views, carried)
	s := &snapshot{at: p.now(), states: make(map[calls.State]int), orders: make(map[string][]int32), hows: make(map[meter.Kind]int), examples: make(map[meter.Kind]*row)}
	s.fill(views, carried)
	s.judge(p.cfg.Meter)
	if before != nil && s.at.Sub(before.at) <= rateSpan {
		s.measure(before)
	}
	if s.rate == nil && s.counted > 0 {
		s.rate = sampled(p.cfg.Meter, s.at)
	}
	s.figures = read(p.cfg.Gatherer)
	ended := p.now()
	s.until = ended.Add(max(fresh, (share-1)*ended.Sub(began)))
	return s
}

func (s *snapshot) fill(views []calls.View, carried map[calls.Flow]calls.Traffic) {
	slices.SortFunc(views, func(a, b calls.View) int { return cmp.Compare(a.Number, b.Number) })
	s.rows = make([]row, len(views))
	for i := range views {
		v := &views[i]
		r := row{View: v, client: &v.PNS, server: &v.PAC}
		r.toClient.carried, r.toServer.carried = admin.Carried(v, carried)
		if v.Control.Src.Addr() != v.PNS.Address {
			r.client, r.server = r.server, r.client
			r.toClient, r.toServer = r.toServer, r.toClient
		}
		if r.toClient.carried != nil || r.toServer.carried != nil {
			s.counted++
		}
		s.states[v.State]++
		s.rows[i] = r
	}
}

// judge asks how the calls carry.
func (s *snapshot) judge(m *meter.Meter) {
	for i := range s.rows {
		r := &s.rows[i]
		r.how = m.Of(r.Number)
		if s.hows[r.how.Kind]++; s.hows[r.how.Kind] == 1 {
			s.examples[r.how.Kind] = r
		}
	}
}

// measure finds the rates since an earlier snapshot. Both have their rows by number.
func (s *snapshot) measure(before *snapshot) {
	apart := s.at.Sub(before.at)
	old := before.rows
	for i := range s.rows {
		r := &s.rows[i]
		for len(old) > 0 && old[0].Number < r.Number {
			old = old[1:]
		}
		if len(old) > 0 && old[0].Number == r.Number {
			r.toClient.rate = admin.PerSecond(old[0].toClient.carried, r.toClient.carried, apart)
			r.toServer.rate = admin.PerSecond(old[0].toServer.carried, r.toServer.carried, apart)
		}
		s.add(r.toClient.rate)
		s.add(r.toServer.rate)
	}
}

// sampled is the rate that the meter has seen, for who is the first to look. Nil is for none of
// late.
func sampled(m *meter.Meter, now time.Time) *admin.Traffic {
	last, known := m.Latest(now, rateSpan)
	if !known {
		return nil
	}
	return &admin.Traffic{Packets: whole(last.Packets), Bytes: whole(last.ToClients + last.ToServers)}
}

func (s *snapshot) add(rate *admin.Traffic) {
	if rate == nil {
		return
	}
	if s.rate == nil {
		s.rate = new(admin.Traffic)
	}
	s.rate.Packets += rate.Packets
	s.rate.Bytes += rate.Bytes
}

// latest returns a snapshot that is fresh. Where one is being taken, that before it is
// returned: one viewer at most waits for the daemon. Without one before, it is awaited until
// ctx is done; then it is nil.
func (p *Page) latest(ctx context.Context) *snapshot {
	last := p.last.Load()
	switch {
	case last == nil:
		select {
		case p.taking <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
	case p.now().Before(last.until):
		return last
	default:
		select {
		case p.taking <- struct{}{}:
		default:
			return last
		}
	}
	defer func() { <-p.taking }()
	last = p.last.Load()
	if last == nil || !p.now().Before(last.until) { // nobody took one meanwhile
		last = p.take(last)
		p.last.Store(last)
		p.forget.Reset(rateSpan)
	}
	return last
}

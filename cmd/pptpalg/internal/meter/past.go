package meter

import "time"

// The past that is kept: an hour, in steps.
const (
	Span = time.Hour
	Step = 20 * time.Second
)

// Sample is one step of the past.
type Sample struct {
	At        time.Time // the step's end
	Calls     int
	OneWay    int
	Silent    int
	ToClients float64 // bytes of GRE per second
	ToServers float64
	Packets   float64 // of GRE per second, both ways
}

// past keeps the samples of an hour, the oldest first.
type past struct {
	samples []Sample
	began   time.Time // of the step under way
	went    went      // in it
}

// went is the GRE that is new at a look: bytes, and packets both ways.
type went struct{ toClients, toServers, packets uint64 }

func (w *went) add(more went) {
	w.toClients += more.toClients
	w.toServers += more.toServers
	w.packets += more.packets
}

// add takes what there is at a time, and what went since the last one.
func (p *past) add(at time.Time, s Sample, more went) {
	if p.began.IsZero() {
		p.began = at
		return // it is not known since when the first bytes have come
	}
	p.went.add(more)
	took := at.Sub(p.began)
	if took < Step {
		return
	}
	seconds := took.Seconds()
	s.At, s.ToClients, s.ToServers, s.Packets = at, float64(p.went.toClients)/seconds, float64(p.went.toServers)/seconds, float64(p.went.packets)/seconds
	p.samples = append(p.samples, s)
	for len(p.samples) > 0 && at.Sub(p.samples[0].At) > Span {
		p.samples = p.samples[1:]
	}
	p.began, p.went = at, went{}
}

// Past returns the samples of the last hour, the oldest first.
func (m *Meter) Past() []Sample {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Sample(nil), m.past.samples...)
}

// Latest returns the last sample; false if there is none that is at most so old.
func (m *Meter) Latest(now time.Time, age time.Duration) (Sample, bool) {
	if m == nil {
		return Sample{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.past.samples)
	if n == 0 || now.Sub(m.past.samples[n-1].At) > age {
		return Sample{}, false
	}
	return m.past.samples[n-1], true
}

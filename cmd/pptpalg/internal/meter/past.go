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
}

// past keeps the samples of an hour, the oldest first.
type past struct {
	samples              []Sample
	began                time.Time // of the step under way
	toClients, toServers uint64    // in it
}

// add takes what there is at a time, and how many bytes went since the last one.
func (p *past) add(at time.Time, s Sample, toClients, toServers uint64) {
	if p.began.IsZero() {
		p.began = at
		return // it is not known since when the first bytes have come
	}
	p.toClients, p.toServers = p.toClients+toClients, p.toServers+toServers
	took := at.Sub(p.began)
	if took < Step {
		return
	}
	s.At, s.ToClients, s.ToServers = at, float64(p.toClients)/took.Seconds(), float64(p.toServers)/took.Seconds()
	p.samples = append(p.samples, s)
	for len(p.samples) > 0 && at.Sub(p.samples[0].At) > Span {
		p.samples = p.samples[1:]
	}
	p.began, p.toClients, p.toServers = at, 0, 0
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

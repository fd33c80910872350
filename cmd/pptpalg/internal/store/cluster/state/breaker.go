package state

import "time"

// Limits of the breaker.
const (
	slowWaits  = 3                // waits in vain that open it
	slowWithin = 10 * time.Second // in such a time
	probeEvery = time.Second
)

// Breaker says whether packets wait for the shared store. It opens with the first failure, or
// the third wait in vain within ten seconds, and closes when something was written. While it
// is open, one write a second is tried.
type Breaker struct {
	open  bool
	slow  [slowWaits]time.Time // the last ones, the oldest first
	probe time.Time            // when the next write is to be tried
}

// Open reports whether nobody waits.
func (b *Breaker) Open() bool { return b.open }

// Failed takes note that something could not be written.
func (b *Breaker) Failed(now time.Time) { b.open, b.probe = true, now.Add(probeEvery) }

// Slow takes note of a wait in vain.
func (b *Breaker) Slow(now time.Time) {
	copy(b.slow[:], b.slow[1:])
	b.slow[slowWaits-1] = now
	if !b.slow[0].IsZero() && now.Sub(b.slow[0]) <= slowWithin {
		b.Failed(now)
	}
}

// Hurry has the next write be tried at once.
func (b *Breaker) Hurry(now time.Time) {
	if b.open {
		b.probe = now
	}
}

// Worked takes note that something was written.
func (b *Breaker) Worked() {
	if b.open {
		*b = Breaker{}
	}
}

// Until returns when the next write may be tried: at once while the breaker is closed.
func (b *Breaker) Until() time.Time {
	if !b.open {
		return time.Time{}
	}
	return b.probe
}

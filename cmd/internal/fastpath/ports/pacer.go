package ports

import (
	"sync"
	"time"
)

// slowPause is the time from one change of routes or filters that is passed on to the next.
const slowPause = 200 * time.Millisecond

// Pacer passes changes on: those of routes and filters at most every 200 ms, the last one
// never lost, and all others at once. A router that speaks BGP changes routes all the time, as
// a virtual switch does with filters. Any goroutine may call Changed.
type Pacer struct {
	pass func(Change)

	mu      sync.Mutex
	next    time.Time // no slow change before that, unless with another one
	held    Change    // what waits
	waiting *time.Timer
	stopped bool
}

// NewPacer returns a Pacer that calls pass, one call at a time.
func NewPacer(pass func(Change)) *Pacer { return &Pacer{pass: pass} }

// Changed takes a change.
func (p *Pacer) Changed(c Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	urgent := c.Links || c.Rules || c.Addresses || c.Ruleset
	if wait := time.Until(p.next); !urgent && wait > 0 {
		p.held.add(c)
		if p.waiting == nil {
			p.waiting = time.AfterFunc(wait, p.due)
		}
		return
	}
	p.passOn(c)
}

// due passes on what waits.
func (p *Pacer) due() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting != nil && time.Until(p.next) <= 0 { // another change may have come first
		p.passOn(Change{})
	}
}

// passOn passes on a change with what waits. It is called with mu.
func (p *Pacer) passOn(c Change) {
	c.add(p.held)
	p.held = Change{}
	if p.waiting != nil {
		p.waiting.Stop()
		p.waiting = nil
	}
	if p.stopped {
		return
	}
	if c.Routes || c.Filters {
		p.next = time.Now().Add(slowPause)
	}
	p.pass(c)
}

// Stop ends it: nothing is passed on any more, and what waited is dropped.
func (p *Pacer) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.waiting != nil {
		p.waiting.Stop()
		p.waiting = nil
	}
}

package ports

import (
	"sync"
	"time"
)

// routePause is the time from one change of routes that is passed on to the next.
const routePause = 200 * time.Millisecond

// Pacer passes changes on: those of routes at most every 200 ms, the last one never lost,
// and all others at once. A router that speaks BGP changes routes all the time. Any goroutine
// may call Changed.
type Pacer struct {
	pass func(Change)

	mu      sync.Mutex
	next    time.Time // no change of routes before that, unless with another one
	waiting *time.Timer
	stopped bool
}

// NewPacer returns a Pacer that calls pass, one call at a time.
func NewPacer(pass func(Change)) *Pacer { return &Pacer{pass: pass} }

// Changed takes a change.
func (p *Pacer) Changed(c Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	onlyRoutes := c.Routes && !c.Links && !c.Rules && !c.Addresses && !c.Ruleset
	if wait := time.Until(p.next); onlyRoutes && wait > 0 {
		if p.waiting == nil {
			p.waiting = time.AfterFunc(wait, p.due)
		}
		return
	}
	if p.waiting != nil {
		c.Routes = true
	}
	p.passOn(c)
}

// due passes on the change of routes that waits.
func (p *Pacer) due() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting != nil && time.Until(p.next) <= 0 { // another change may have come first
		p.passOn(Change{Routes: true})
	}
}

// passOn is called with mu.
func (p *Pacer) passOn(c Change) {
	if p.waiting != nil {
		p.waiting.Stop()
		p.waiting = nil
	}
	if p.stopped {
		return
	}
	if c.Routes {
		p.next = time.Now().Add(routePause)
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

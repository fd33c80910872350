package gateway

import (
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
)

// What the shared store lacks of this gateway's calls.

// restoreShared has the shared store know what it lacks of this gateway's calls, if it does.
func (g *Gateway) restoreShared() {
	g.lockHanded()
	defer g.order.Unlock()
	r := g.beginRepair()
	if r == nil {
		return
	}
	g.mu.Lock()
	walk, handovers := g.editor.Copy(), g.share.handovers
	g.mu.Unlock()
	var some []calls.Record
	for more := true; more; {
		g.mu.Lock()
		some, more = walk.Next(slice, some[:0])
		g.mu.Unlock()
		r.Have(some, time.Now())
		g.order.Unlock() // packets get their turn
		g.lockHanded()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var resting []calls.Resting
	if r.Rests() {
		resting = g.table.Resting()
	}
	whole := func(public netip.Addr) bool { return g.share.mine[public] && g.share.handovers == handovers }
	r.End(resting, whole, time.Now())
}

const (
	// repairTries is how often a repair waits, for repairPause, until the gateway has taken in what others
	// have done: there is always some where many calls come and go.
	repairTries = 200
	repairPause = time.Millisecond
)

// beginRepair has the store begin to compare, if it lacks something. The caller holds order.
func (g *Gateway) beginRepair() (r *cluster.Repair) {
	for range repairTries {
		if r = g.share.store.Repair(); r != nil || !g.share.store.Occupied() {
			return r
		}
		g.order.Unlock()
		time.Sleep(repairPause)
		g.lockHanded()
	}
	return nil
}

package gateway

import (
	"time"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/cmd/pptpalg/internal/datapath/queue"
)

// DataPath returns the name of the data path that is used, which is not datapath.Auto.
func (g *Gateway) DataPath() datapath.Name { return g.path.Name() }

// choosePath decides on the data path. It changes nothing that an earlier daemon has left: see
// beginPath.
func (g *Gateway) choosePath() {
	cfg := &g.cfg.Fast
	switch g.chosenPath() {
	case datapath.Kernel:
		entries := kernel.New(g.kernel, g.lister, g.viewer)
		if g.path = entries; cfg.Wanted() {
			cfg.Opened = g.keepCarried
			g.path = fast.Tend(entries, *cfg, g.log)
		}
	default:
		if cfg.Wanted() {
			g.log.Warn("no fast path: it needs data path kernel")
		}
		call, seen := g.cfg.Data.Marks()
		g.path = queue.New(call, seen, func(b []byte) { g.tooBigs.hear(b, time.Now()) })
	}
}

// beginPath loads the fast path, or unloads that of an earlier daemon, and takes up what calls have
// carried there.
func (g *Gateway) beginPath() {
	if a := g.ahead(); a != nil {
		a.Begin()
		g.takeUpCarried(a.Counts())
		return
	}
	left, err := g.cfg.Fast.Unload()
	if err != nil {
		g.log.Warn("cannot remove the fast path", "err", err)
	}
	g.takeUpCarried(left)
}

func (g *Gateway) chosenPath() datapath.Name {
	if g.cfg.DataPath != datapath.Auto {
		return g.cfg.DataPath
	}
	if err := g.kernel.Probe(); err != nil {
		g.log.Warn("the kernel does not translate GRE as it should: every GRE packet goes through the daemon", "err", err)
		return datapath.Queue
	}
	return datapath.Kernel
}

// outlives reports whether flows are entries in the kernel.
func (g *Gateway) outlives() bool { return g.path.Traits().Outlives }

// visits returns what there is where GRE packets visit the daemon, nil where they do not.
func (g *Gateway) visits() *datapath.Visits {
	if g.path == nil {
		return nil // the metrics are read before it is chosen
	}
	return g.path.Traits().Visits
}

// openGRE binds the GRE queues, if packets visit the daemon.
func (g *Gateway) openGRE() error {
	visits := g.visits()
	if visits == nil {
		return nil
	}
	data := g.cfg.Data
	return g.open(greQueue, nfqueue.Config{Queue: data.Queue, Queues: data.Queues}, visits.Packet)
}

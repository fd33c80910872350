package gateway

import (
	"errors"

	"pptpalg/alg/nfqueue"
)

// The queues that metrics tell apart.
const (
	controlQueue = "control"
	greQueue     = "gre"
)

// queuing is what the daemon takes packets from.
type queuing struct {
	*nfqueue.Queue
	name    string
	counted nfqueue.Stats // the kernel's count when it was last asked; owned by sweep
}

// controlBatch is how many control packets are taken at a time. What must be in place
// before they are let go costs least for many at once, and where one comes it goes alone.
const controlBatch = 64

func (g *Gateway) openControl() error {
	return g.open(controlQueue, nfqueue.Config{Queue: g.cfg.Queue, Settle: g.settle, Released: g.released, Batch: controlBatch}, g.packet)
}

func (g *Gateway) open(name string, cfg nfqueue.Config, h nfqueue.Handler) error {
	cfg.MaxLen, cfg.ReadBuffer = uint32(g.cfg.QueueLen), g.cfg.QueueBuffer
	cfg.Panicked, cfg.Failed = g.panicked, g.queueFailed
	cfg.Overrun = func() { g.overrun(name) }
	q, err := nfqueue.Open(cfg, h)
	if err == nil {
		g.queues = append(g.queues, &queuing{Queue: q, name: name})
	}
	return err
}

func (g *Gateway) closeQueues() error {
	var errs []error
	for _, q := range g.queues {
		errs = append(errs, q.Close())
	}
	return errors.Join(errs...)
}

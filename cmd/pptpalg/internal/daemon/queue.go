package daemon

import (
	"errors"

	"pptpalg/alg/nfqueue"
)

// The queues that metrics tell apart.
const (
	controlQueue = "control"
	greQueue     = "gre"
)

// queue is what the daemon takes packets from.
type queue struct {
	*nfqueue.Queue
	name    string
	counted nfqueue.Stats // the kernel's count when it was last asked; owned by sweep
}

// controlBatch is how many control packets are taken at a time. What must be in place
// before they are let go costs least for many at once, and where one comes it goes alone.
const controlBatch = 64

func (d *Daemon) openControl() error {
	return d.open(controlQueue, nfqueue.Config{Queue: d.cfg.Queue, Settle: d.settle, Batch: controlBatch}, d.packet)
}

func (d *Daemon) open(name string, cfg nfqueue.Config, h nfqueue.Handler) error {
	cfg.MaxLen, cfg.ReadBuffer = uint32(d.cfg.QueueLen), d.cfg.QueueBuffer
	cfg.Panicked, cfg.Failed = d.panicked, d.queueFailed
	cfg.Overrun = func() { d.overrun(name) }
	q, err := nfqueue.Open(cfg, h)
	if err == nil {
		d.queues = append(d.queues, &queue{Queue: q, name: name})
	}
	return err
}

func (d *Daemon) closeQueues() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.Close())
	}
	return errors.Join(errs...)
}

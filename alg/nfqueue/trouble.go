package nfqueue

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFailures is how many errors in a row, with no packet between, mean that the
// socket is dead.
const maxFailures = 64

// trouble judges the errors of one queue: it tells those that concern a packet
// from those that end the queue. It belongs to the goroutine that receives.
type trouble struct {
	cfg      *Config
	failures int // errors in a row that may be the socket's
}

// received records that a packet came and got its verdict: the socket lives.
func (t *trouble) received() { t.failures = 0 }

// socket judges an error of the socket itself. An error that it returns ends the queue.
func (t *trouble) socket(err error) error {
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
		return fmt.Errorf("receive packets: %w", err)
	case errors.Is(err, unix.ENOBUFS):
		t.cfg.Overrun()
		return nil
	}
	return t.failed(fmt.Errorf("receive packet: %w", err))
}

// refused judges the kernel's answer to a verdict, given the ID of the last packet. It
// tells a packet that is gone from a queue that is gone. ENOENT is the common answer: the
// packet's interface went down, and the kernel dropped the packet. There may be as many in
// a row as the queue is long, so they are not a sign of a dead socket.
func (t *trouble) refused(err error, last uint32) error {
	if errors.Is(err, unix.ENOENT) && last == 0 {
		return nil // admit dropped packets of which there were none
	}
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("lost queue %d: %w", t.cfg.Queue, err)
	}
	t.cfg.Failed(fmt.Errorf("verdict refused: %w", err))
	return nil
}

// failed counts an error towards the socket's death.
func (t *trouble) failed(err error) error {
	t.failures++
	if t.failures >= maxFailures {
		return fmt.Errorf("give up after %d errors in a row: %w", t.failures, err)
	}
	t.cfg.Failed(err)
	return nil
}

package export

import (
	"context"
	"errors"
	"time"
)

// Try connects to a collector as the daemon does, and begins TLS where it does. Of UDP it sends a
// datagram without events, and waits briefly for the word that nobody listens: silence is all that
// tells of a collector there.
func Try(ctx context.Context, t Target) error {
	c, err := connect(ctx, &t)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer")
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if !t.Silent() {
		return nil
	}
	if _, err := c.Write(t.kind.format(&t).start()); err != nil {
		return plain(err)
	}
	select {
	case err := <-c.broken:
		return err
	case <-time.After(refusal):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Silent reports whether a collector never says whether it has got anything.
func (t Target) Silent() bool { return t.kind.network == "udp" }

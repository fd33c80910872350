package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// ErrCompacted says that the store has forgotten the revision from which on it was to tell.
var ErrCompacted = errors.New("revision is compacted")

// Fenced says that a guard did not hold, and nothing was done. Now are the guards' keys as they
// are; one that does not exist has no value and revision 0.
type Fenced struct{ Now []state.Item }

func (f *Fenced) Error() string {
	return fmt.Sprintf("fenced: %d keys have other revisions", len(f.Now))
}

// Shared is a store that gateways share. Any goroutine may call any method. With any error but
// Fenced, a change may have been done, and may still be done later.
type Shared interface {
	// Commit does a transaction and returns its revision, or *Fenced. One without Puts shows
	// that the store answers.
	Commit(ctx context.Context, t state.Transaction) (state.Mark, error)
	// Roster returns all items but those of calls, as of the mark.
	Roster(ctx context.Context) ([]state.Item, state.Mark, error)
	// Load hands over all calls as of a mark, in pages. The error is ErrCompacted if the store
	// does not know the revision any more.
	Load(ctx context.Context, mark state.Mark, page func([]state.Item)) error
	// Watch hands over all that has changed after a mark, in order, until it returns an
	// error. All items of a revision come at once. Changed must not be called with items of
	// another store than the mark's.
	Watch(ctx context.Context, after state.Mark, changed func([]state.Item)) error
	// Hold does a transaction whose keys disappear when the holder does not live any more,
	// after about the time given.
	Hold(ctx context.Context, t state.Transaction, ttl time.Duration) (Held, error)
	Close() error
}

// Held is what holds keys.
type Held interface {
	// Lost is closed when the keys are gone, or will be.
	Lost() <-chan struct{}
	// Release deletes the keys.
	Release(ctx context.Context) error
}

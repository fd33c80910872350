package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// The slot of a gateway of a cluster is in the state directory as well as in the shared store: the
// gateway's calls are numbered by it, and the shared store may have lost its data when the next
// daemon starts.

// slotFile is the file's name. It has the gateway's name, and its slot.
const slotFile = "cluster.slot"

// lastSlot returns the slot that the gateway had last, -1 for none that is known.
func lastSlot(dir, name string) int {
	b, err := os.ReadFile(filepath.Join(dir, slotFile))
	if err != nil {
		return -1
	}
	var had string
	var slot int
	if _, err := fmt.Sscanf(string(b), "%s %d\n", &had, &slot); err != nil || had != name || slot < 0 || slot >= state.Slots {
		return -1
	}
	return slot
}

// keepSlots writes each slot down that the gateway gets, until ctx is done. A disk that hangs is not
// waited for then.
func (g *Gateway) keepSlots(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case slot := <-g.share.slots:
			g.keepSlot(ctx, slot)
		}
	}
}

func (g *Gateway) keepSlot(ctx context.Context, slot int) {
	kept := make(chan error, 1)
	go func() { kept <- keepSlot(g.cfg.StateDir, g.share.name, slot) }()
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer stop()
	select {
	case err := <-kept:
		if err != nil {
			g.log.Warn("the gateway's slot is recorded only in the shared store", "err", err)
		}
	case <-late.Done():
		g.log.Warn("the gateway's slot is recorded only in the shared store", "err", "the state directory does not answer")
	}
}

const keepTime = 5 * time.Second

// keepSlot writes the slot down, unless it stands there. One that cannot be written is looked for in
// the shared store alone.
func keepSlot(dir, name string, slot int) error {
	if lastSlot(dir, name) == slot {
		return nil
	}
	file := filepath.Join(dir, slotFile)
	fresh := file + ".new"
	if err := os.WriteFile(fresh, fmt.Appendf(nil, "%s %d\n", name, slot), 0o600); err != nil {
		return fmt.Errorf("keep the slot: %w", err)
	}
	if err := os.Rename(fresh, file); err != nil {
		return fmt.Errorf("keep the slot: %w", err)
	}
	return nil
}

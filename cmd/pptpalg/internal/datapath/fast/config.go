package fast

import (
	"errors"
	"fmt"
	"os"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Config says which fast path is wanted.
type Config struct {
	Mode     ports.Mode
	Only     []string      // the interfaces; empty for all that can be used
	Interval time.Duration // for which a decision of the kernel is in force
	Dir      string        // where the BPF file system is
	Flows    uint32        // at most
	Group    int           // that may read and write what is pinned; -1 for none

	// Opened is called when the fast path was loaded, or found loaded, by the goroutine of
	// datapath.Ahead's Begin and Run. nil is for nobody.
	Opened func()

	// Request is a file that the daemon writes where the fast path has to be loaded anew and
	// the daemon has no right to. A unit of systemd watches it. "" for none.
	Request string
}

// Wanted reports whether there is to be a fast path.
func (c *Config) Wanted() bool { return c.Mode != "" && c.Mode != ports.Off }

// Load chooses the interfaces and loads the programs. It needs root.
func (c *Config) Load() (fastpath.Loaded, error) {
	all, err := ports.Choose(c.Mode, c.Only)
	if err != nil {
		return fastpath.Loaded{}, err
	}
	return c.load(all)
}

func (c *Config) load(all []ports.Port) (fastpath.Loaded, error) {
	return fastpath.Load(all, fastpath.Options{Dir: c.Dir, Interval: c.Interval, Flows: c.Flows, Group: c.Group, OnlyXDP: c.Mode == ports.XDP})
}

// root reports whether the process may load programs.
func root() bool { return os.Geteuid() == 0 }

// ErrStays says that programs of an earlier daemon are still attached.
var ErrStays = errors.New("the fast path of an earlier daemon is still loaded, and removing it needs root: pptpalg fastpath unload")

// Unload removes what an earlier daemon or command has loaded, and returns what flows have carried
// there. Nothing loaded is no error.
func (c *Config) Unload() (left datapath.Counts, err error) {
	if c.Mode == "" {
		return left, nil // nobody has said anything about it
	}
	t, err := fastpath.Open(c.Dir)
	if err == nil {
		defer t.Close()
	}
	if root() { // also what cannot be opened, which may be of another release
		failed := fastpath.Unload(c.Dir)
		return counts(t), failed
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return left, nil
	case err != nil:
		return datapath.Counts{Unreadable: true}, fmt.Errorf("look for a fast path: %w", err)
	}
	return counts(t), ErrStays
}

// Carries reports whether a fast path may carry a flow, and counts it then.
func Carries(f calls.Flow) bool { return fastpath.Carries(f) }

// counts returns what a table has counted; nil is for none.
func counts(t *fastpath.Table) datapath.Counts {
	if t == nil {
		return datapath.Counts{}
	}
	ended := t.Unloaded() // before the counts are read, which grow until then
	return datapath.Counts{All: t.All(), Ended: ended}
}

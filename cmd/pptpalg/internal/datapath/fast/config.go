package fast

import (
	"errors"
	"fmt"
	"os"
	"time"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
)

// Config says which fast path is wanted.
type Config struct {
	Mode     ports.Mode
	Only     []string      // the interfaces; empty for all that can be used
	Interval time.Duration // for which a decision of the kernel is in force
	Dir      string        // where the BPF file system is
	Flows    uint32        // at most
	Group    int           // that may read and write what is pinned; -1 for none

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

// Unload removes what an earlier daemon or command has loaded. Nothing loaded is no error.
func (c *Config) Unload() error {
	if c.Mode == "" {
		return nil // nobody has said anything about it
	}
	if root() {
		return fastpath.Unload(c.Dir)
	}
	t, err := fastpath.Open(c.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a fast path: %w", err)
	}
	return errors.Join(ErrStays, t.Close())
}

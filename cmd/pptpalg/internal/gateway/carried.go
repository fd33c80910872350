package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/store/journal"
)

// What calls have carried is counted by their entries, and by the fast path while it is loaded.
// Somebody may unload it between two daemons, or the next daemon does so itself. So each daemon
// writes a file when it begins and when it ends: what fast paths have counted, and whether one is
// loaded that may count more. What the next daemon finds missing is lost, and it tells
// what it knows of these calls as approximate.

// carriedFile is the file's name in the state directory. There is none while it would say nothing.
const carriedFile = "calls.carried"

// carried is what the file says.
type carried struct {
	Table string        `json:"table"` // the kernel's, see journal.Identity
	Ahead bool          `json:"ahead"` // a fast path is loaded, which counts
	Calls []carriedCall `json:"calls,omitempty"`
}

// carriedCall is a call of which there is something to say.
type carriedCall struct {
	Number uint64        `json:"number"`
	Since  time.Time     `json:"since"`
	To     [2]carriedWay `json:"to"` // by calls.Side
}

// carriedWay is what was sent to an end of a call, beside what its entry has counted.
type carriedWay struct {
	Former history.Volume `json:"former"` // counted by fast paths that are unloaded
	Ahead  history.Volume `json:"ahead"`  // by the one that was loaded when this was written
	Lost   bool           `json:"lost"`   // there may have been more
}

// after is a way when a fast path's counts are known. lost says that a flow that is not there
// was counted by a fast path that is gone.
func (w carriedWay) after(f calls.Flow, c *datapath.Counts, lost bool) carriedWay {
	t, there := c.All.At(f)
	v := history.Volume{Packets: t.Packets, Bytes: t.Bytes}
	switch {
	case there && c.Ended:
		w.Former.Packets, w.Former.Bytes = w.Former.Packets+v.Packets, w.Former.Bytes+v.Bytes
		w.Ahead = history.Volume{}
	case there:
		w.Ahead = v
	case lost && fast.Carries(f):
		w.Lost = true
		if !c.Unreadable { // else its counts may be readable later, and are not to be told twice
			w.Former.Packets, w.Former.Bytes = w.Former.Packets+w.Ahead.Packets, w.Former.Bytes+w.Ahead.Bytes
			w.Ahead = history.Volume{}
		}
	}
	return w
}

// ways returns what is to be said of calls, of those where that is something.
func ways(records []calls.Record, of func(*calls.Record, calls.Side, calls.Flow) carriedWay) (all []carriedCall) {
	for i := range records {
		r := &records[i]
		c := carriedCall{Number: r.Number, Since: r.Since}
		for side := range c.To {
			if f, flows := r.FlowTo(calls.Side(side)); flows && r.State != calls.Clearing {
				c.To[side] = of(r, calls.Side(side), f)
			}
		}
		if c.To != [2]carriedWay{} {
			all = append(all, c)
		}
	}
	return all
}

// find returns what the file says of a call towards an end.
func (c *carried) find() func(*calls.Record, calls.Side) carriedWay {
	all := make(map[uint64]*carriedCall, len(c.Calls))
	for i := range c.Calls {
		all[c.Calls[i].Number] = &c.Calls[i]
	}
	return func(r *calls.Record, to calls.Side) (w carriedWay) {
		if was := all[r.Number]; was != nil && was.Since.Equal(r.Since) {
			w = was.To[to]
		}
		return w
	}
}

// carrying is what the gateway remembers of the file.
type carrying struct {
	begun   bool            // what an earlier daemon has left is taken up
	ahead   bool            // what was written last
	left    datapath.Counts // of a fast path that the daemon does not use and could not remove
	writing sync.Mutex      // one at a time, in order
}

// takeUpCarried takes up what calls of an earlier daemon have carried. c is what its fast path has
// counted.
func (g *Gateway) takeUpCarried(c datapath.Counts) {
	was := g.readCarried()
	former, used := g.path.Traits().Former, g.ahead() != nil
	if former == nil && !was.Ahead && len(was.Calls) == 0 {
		return // the daemon translates by itself, and counts by itself
	}
	if !c.Ended {
		g.carrying.left = c
	}
	g.carrying.ahead = c.All != nil && !c.Ended || c.Unreadable && was.Ahead
	find := was.find()
	now := carried{Ahead: g.carrying.ahead}
	now.Calls = ways(g.kept(), func(r *calls.Record, to calls.Side, f calls.Flow) carriedWay {
		w := find(r, to).after(f, &c, was.Ahead)
		_, there := c.All.At(f)
		// What goes on counting and is not read, or is counted by a daemon that may be killed, is lost.
		w.Lost = w.Lost || there && !c.Ended && !used || former == nil
		if w.Lost {
			g.ledger.Doubt(r.Number, to)
		}
		if former != nil && w.Former != (history.Volume{}) {
			former.Keep(f, calls.Traffic{Packets: w.Former.Packets, Bytes: w.Former.Bytes, Counted: true})
		}
		return w
	})
	g.carrying.begun = true
	g.writeCarried(now)
}

// keepCarried writes down what calls have carried, for the next daemon.
func (g *Gateway) keepCarried() {
	former := g.path.Traits().Former
	if former == nil || !g.carrying.begun {
		return
	}
	c := g.carrying.left
	if a := g.ahead(); a != nil {
		c = a.Counts()
	}
	g.carrying.ahead = c.All != nil && !c.Ended || c.Unreadable && g.carrying.ahead
	now := carried{Ahead: g.carrying.ahead}
	now.Calls = ways(g.kept(), func(r *calls.Record, to calls.Side, f calls.Flow) carriedWay {
		t := former.Of(f)
		w := carriedWay{Former: history.Volume{Packets: t.Packets, Bytes: t.Bytes}, Lost: g.ledger.Doubtful(r.Number, to)}
		return w.after(f, &c, false)
	})
	g.writeCarried(now)
}

func (g *Gateway) kept() []calls.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.editor.Records()
}

// carriedPatience is how long a disk may take that has the file.
const carriedPatience = time.Second

var errDisk = errors.New("the state directory does not answer")

// briefly waits for a disk, for a while at most.
func briefly(do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(carriedPatience):
		return errDisk
	}
}

// readCarried returns what an earlier daemon has written about the kernel's present table.
func (g *Gateway) readCarried() carried {
	read := make(chan carried, 1)
	err := briefly(func() error {
		b, err := os.ReadFile(filepath.Join(g.cfg.StateDir, carriedFile))
		if err != nil {
			return err
		}
		var c carried
		err = json.Unmarshal(b, &c)
		read <- c
		return err
	})
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			g.log.Warn("cannot read what calls have carried on the fast path of an earlier daemon", "err", err)
		}
		return carried{}
	}
	c := <-read
	if table, err := journal.Identity(); err != nil || c.Table != table {
		return carried{}
	}
	return c
}

// writeCarried writes the file, or removes it if there is nothing to say.
func (g *Gateway) writeCarried(c carried) {
	err := briefly(func() (err error) {
		g.carrying.writing.Lock()
		defer g.carrying.writing.Unlock()
		if c.Table, err = journal.Identity(); err != nil {
			return err
		}
		return c.write(filepath.Join(g.cfg.StateDir, carriedFile))
	})
	if err != nil {
		g.log.Warn("what calls have carried on the fast path may be too low after the next start", "err", err)
	}
}

func (c *carried) write(file string) error {
	if !c.Ahead && len(c.Calls) == 0 {
		if _, err := os.Lstat(file); errors.Is(err, os.ErrNotExist) {
			return nil // a file system that is read-only would refuse to remove even that
		}
		return os.Remove(file)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	fresh := file + ".new"
	err = os.WriteFile(fresh, b, 0o600)
	if err == nil {
		err = os.Rename(fresh, file)
	}
	if err != nil {
		os.Remove(fresh) // a full disk may have taken a part of it
		return fmt.Errorf("keep what calls have carried: %w", err)
	}
	return nil
}

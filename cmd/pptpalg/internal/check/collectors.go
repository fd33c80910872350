package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pptpalg/cmd/pptpalg/internal/export"
)

// How long a collector may take to answer, and all of them.
const (
	collectorTime  = 2 * time.Second
	collectorsTime = 6 * time.Second
)

// collector is what came of trying one.
type collector struct {
	target export.Target
	err    error
}

// collectors tries one after the other: the network is the calling thread's.
func (r *reader) collectors() ([]collector, error) {
	whole, cancel := context.WithTimeout(r.ctx, collectorsTime)
	defer cancel()
	var all []collector
	for _, t := range r.cfg.Exports {
		ctx, cancel := context.WithTimeout(whole, collectorTime)
		all = append(all, collector{t, export.Try(ctx, t)})
		cancel()
	}
	return all, nil
}

func judgeCollectors(all []collector) Finding {
	var good, bad []string
	for _, c := range all {
		switch {
		case c.err != nil:
			bad = append(bad, fmt.Sprintf("%v: %s", c.target, oneLine(c.err.Error())))
		case c.target.Silent():
			good = append(good, fmt.Sprintf("%v: sent without an error (UDP reports no more than that)", c.target))
		default:
			good = append(good, fmt.Sprintf("%v: connected", c.target))
		}
	}
	switch {
	case len(all) == 0:
		return ok("no collector of events")
	case len(bad) == 0:
		return ok("%s", strings.Join(good, "; "))
	}
	return warning("start the collector, or let packets to it pass; if it refuses them, its log says why",
		"events do not reach %d of %d collectors: %s", len(bad), len(all), strings.Join(bad, "; "))
}

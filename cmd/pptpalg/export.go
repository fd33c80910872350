package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/pptpalg/internal/export"
	"pptpalg/cmd/pptpalg/internal/gateway"
	"pptpalg/cmd/pptpalg/internal/history"
)

// exports are the collectors of a running daemon.
type exports []*export.Exporter

// parseExports reads collectors, each of which may be given once.
func parseExports(texts []string) (all []export.Target, err error) {
	seen := make(map[string]bool)
	for _, text := range texts {
		t, err := export.Parse(text)
		if err != nil {
			return nil, err
		}
		if seen[t.String()] {
			return nil, fmt.Errorf("%v is given twice", t)
		}
		seen[t.String()] = true
		all = append(all, t)
	}
	return all, nil
}

func openExports(texts []string, events *history.Store, log *slog.Logger) (exports, error) {
	targets, err := parseExports(texts)
	if err != nil {
		return nil, err
	}
	var all exports
	for _, t := range targets {
		x, err := export.Open(t, events, log)
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// run sends events until ctx is done.
func (all exports) run(ctx context.Context) error {
	var group errgroup.Group
	for _, x := range all {
		group.Go(func() error { return x.Run(ctx) })
	}
	return group.Wait()
}

// close ends exports that were not run.
func (all exports) close() {
	for _, x := range all {
		x.Close()
	}
}

// state is what the metrics tell.
func (all exports) state(now time.Time) (states []gateway.Export) {
	for _, x := range all {
		states = append(states, gateway.Export(x.State(now)))
	}
	return states
}

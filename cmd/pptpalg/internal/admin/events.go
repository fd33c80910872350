package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"pptpalg/cmd/pptpalg/internal/history"
)

// followBuffer is the maximum number of events that wait for a follower.
const followBuffer = 1024

// serveEvents answers with the kept events, a Record on each line; for a follower also with
// later events, until ctx is done.
func (s *Server) serveEvents(ctx context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		var sub *history.Subscription
		if r.FormValue("follow") != "" {
			sub = s.events.Subscribe(followBuffer, history.Logged...)
			defer sub.Close()
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := stream{json.NewEncoder(w), http.NewResponseController(w)}
		told, err := out.kept(s.events.Kept(history.Logged...))
		if err == nil && sub != nil {
			_ = out.follow(ctx, sub, told) // the client went away, or the server ends
		}
	}
}

// stream is an answer that grows.
type stream struct {
	*json.Encoder
	control *http.ResponseController
}

// kept writes the kept events, and returns their numbers: those since the client subscribed
// will come again.
func (s stream) kept(all []history.Event) (told map[uint64]bool, err error) {
	told = make(map[uint64]bool, len(all))
	for _, e := range all {
		told[e.Seq] = true
		if err := s.Encode(history.NewRecord(e)); err != nil {
			return nil, err
		}
	}
	return told, s.control.Flush()
}

func (s stream) follow(ctx context.Context, sub *history.Subscription, told map[uint64]bool) error {
	for {
		e, lost, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if lost > 0 {
			err = s.Encode(history.NewLost(lost, time.Now()))
		}
		if !told[e.Seq] {
			err = errors.Join(err, s.Encode(history.NewRecord(e)))
		}
		if sub.Idle() {
			told = nil // all that came before it was asked for has come
			err = errors.Join(err, s.control.Flush())
		}
		if err != nil {
			return err
		}
	}
}

// Events calls show with each line of the translation log that the daemon keeps, the oldest
// first; with follow also with later lines, until ctx is done or the daemon ends.
func (c Client) Events(ctx context.Context, follow bool, show func(history.Record) error) error {
	what := "/events"
	if follow {
		what += "?follow=1"
	}
	body, err := c.get(ctx, what)
	if err != nil {
		return err
	}
	defer body.Close()
	for lines := json.NewDecoder(body); ; {
		var raw json.RawMessage
		var r history.Record
		err := lines.Decode(&raw)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = c.decode(ctx, raw, &r)
		}
		if err != nil {
			return fmt.Errorf("read the daemon's events: %w", err)
		}
		if err := show(r); err != nil {
			return err
		}
	}
}

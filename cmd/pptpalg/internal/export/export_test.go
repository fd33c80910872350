package export

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// noon is when test events happen.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 123e6, time.UTC)

// ends are of a client and its server.
var ends = [2]history.End{
	calls.Initiator: {Address: netip.MustParseAddrPort("10.0.0.1:1000"), Public: netip.MustParseAddrPort("192.0.2.1:2000")},
	calls.Responder: {Address: netip.MustParseAddrPort("203.0.113.1:1723"), Public: netip.MustParseAddrPort("203.0.113.1:1723")},
}

func leg(own, public pptp.CallID) calls.LegRecord {
	return calls.LegRecord{Known: true, Own: own, Public: public}
}

func opened(number uint64) history.Event {
	return history.Event{Time: noon, Kind: history.CallRequested, Ends: ends, Call: history.Call{Number: number, Legs: [2]calls.LegRecord{leg(7, 255)}}}
}

func translated(number uint64) history.Event {
	e := opened(number)
	e.Kind, e.Call.Legs[calls.Responder] = history.CallTranslated, leg(900, 900)
	return e
}

func closed(number uint64, counted bool) history.Event {
	e := translated(number)
	e.Kind, e.Call.Since, e.Time = history.CallClosed, noon, noon.Add(1500*time.Millisecond)
	e.Call.Cause = calls.Cleared
	if counted {
		e.Call.Traffic = [2]calls.Traffic{calls.Initiator: {Packets: 3, Bytes: 144, Counted: true}, calls.Responder: {Packets: 4, Bytes: 200, Counted: true}}
	}
	return e
}

func record(e history.Event) *history.Record {
	r := history.NewRecord(e)
	return &r
}

// parse reads a target that is right.
func parse(t *testing.T, text string) Target {
	t.Helper()
	target, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// exporting is an exporter that runs.
type exporting struct {
	*Exporter
	t     *testing.T
	store *history.Store
	stop  func() // ends it, at the latest with the test
}

func export(t *testing.T, target string) *exporting {
	t.Helper()
	x := &exporting{t: t, store: history.NewStore(1, 1)}
	var err error
	if x.Exporter, err = Open(parse(t, target), x.store, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(x.stop)
	return x
}

// add has something happen.
func (x *exporting) add(events ...history.Event) {
	for i := range events {
		x.store.Add(&events[i])
	}
}

// until waits for a state.
func (x *exporting) until(what string, is func(State) bool) {
	x.t.Helper()
	until(x.t, func() error {
		if s := x.State(time.Now()); !is(s) {
			return fmt.Errorf("want %s: %+v", what, s)
		}
		return nil
	})
}

// patience is how long tests wait for what takes a moment.
const patience = 20 * time.Second

func until(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/rules"
	"pptpalg/rules/choice"
)

// fakeRules is a backend whose rules others remove.
type fakeRules struct {
	name    string
	there   bool
	failing error // of Load
	blind   error // of Present
	loads   int
	deaf    error  // of Watch
	watched func() // called by Watch, if not nil
}

func (f *fakeRules) Name() string { return f.name }

func (f *fakeRules) Load(_ context.Context, cfg rules.Config) (rules.Outcome, error) {
	f.loads++
	f.there = f.failing == nil
	return rules.Outcome{Backend: f.name, Config: cfg}, f.failing
}

func (f *fakeRules) Unload(context.Context) error { f.there = false; return nil }

func (f *fakeRules) Present(context.Context, rules.Config) (bool, error) { return f.there, f.blind }

func (f *fakeRules) Watch(ctx context.Context, _ func()) error {
	if f.watched != nil {
		f.watched()
	}
	if f.deaf == nil {
		<-ctx.Done()
	}
	return f.deaf
}

// guarded returns a gateway with its rules loaded by f.
func guarded(t *testing.T, f *fakeRules) (*Gateway, *strings.Builder) {
	t.Helper()
	var log strings.Builder
	g := newGateway(Config{Queue: 1723, Ports: []uint16{1723}, Table: calls.DefaultConfig()}, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
	g.firewall = f
	done, err := f.Load(t.Context(), rules.Config{Queue: 1723, Ports: []uint16{1723}})
	if err != nil {
		t.Fatal(err)
	}
	g.loaded.Store(&done)
	f.loads = 0
	return g, &log
}

func TestGuardLoadsAgain(t *testing.T) {
	f := &fakeRules{name: "nft"}
	g, log := guarded(t, f)
	now := time.Unix(1e9, 0)
	g.lookAtRules(t.Context(), now)
	if f.loads != 0 || g.rulesLoaded() != 1 || g.rulesMissing() != nil {
		t.Errorf("nothing is missing: %d loads, %v", f.loads, g.rulesMissing())
	}
	f.there = false
	g.lookAtRules(t.Context(), now)
	if f.loads != 1 || g.rulesLoaded() != 1 || testutil.ToFloat64(g.metrics.rulesLost) != 1 {
		t.Errorf("after a loss: %d loads, %v", f.loads, g.rulesMissing())
	}
	for _, want := range []string{"another program has removed", "are loaded again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, log)
		}
	}
	var kinds []history.Kind
	for _, e := range g.events.Kept(history.Logged...) {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []history.Kind{history.RulesLost, history.RulesBack}) {
		t.Errorf("events %v", kinds)
	}
}

// A program that removes the rules each time is not fought: pauses grow, and end when it stops.
func TestGuardAndAnotherManager(t *testing.T) {
	f := &fakeRules{name: "nft"}
	g, log := guarded(t, f)
	start := time.Unix(1e9, 0)
	now := start
	for ; now.Before(start.Add(time.Hour)); now = now.Add(100 * time.Millisecond) {
		f.there = false
		g.lookAtRules(t.Context(), now)
	}
	if f.loads < 5 || f.loads > 25 {
		t.Errorf("%d loads in an hour against another program", f.loads)
	}
	if err := g.rulesMissing(); !errors.Is(err, errRulesKept) || g.rulesLoaded() != 0 {
		t.Errorf("missing for %v, loaded %v", err, g.rulesLoaded())
	}
	if !strings.Contains(errRulesKept.Error(), "another program keeps removing") { // status.KeepsRemoving
		t.Error("pptpalg status does not know this problem:", errRulesKept)
	}
	if !g.RulesContested(now) {
		t.Error("nobody is told that another program keeps removing them")
	}
	if lines := strings.Count(log.String(), "\n"); lines > 3*f.loads+3 {
		t.Errorf("%d lines are logged of %d loads", lines, f.loads)
	}
	now = now.Add(longestPause)
	g.lookAtRules(t.Context(), now) // the other program has stopped
	if !g.RulesContested(now) || g.RulesContested(now.Add(stayed+1)) {
		t.Error("rules are contested until they have stayed for a while")
	}
	now = now.Add(2 * stayed)
	g.lookAtRules(t.Context(), now)
	f.there, f.loads = false, 0
	g.lookAtRules(t.Context(), now)
	if f.loads != 1 || g.rulesMissing() != nil {
		t.Errorf("a loss much later: %d loads, %v", f.loads, g.rulesMissing())
	}
	if g.RulesContested(now) {
		t.Error("one loss is no contest")
	}
}

// Rules of others are not loaded, and rules that cannot be loaded are tried again.
func TestGuardCannot(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &fakeRules{name: choice.None}
	g, _ := guarded(t, f)
	f.there = false
	g.lookAtRules(t.Context(), now)
	if f.loads != 0 || !errors.Is(g.rulesMissing(), errRulesNever) || g.rulesLoaded() != 0 {
		t.Errorf("rules of others: %d loads, %v", f.loads, g.rulesMissing())
	}
	f.there = true
	g.lookAtRules(t.Context(), now)
	if g.rulesMissing() != nil {
		t.Errorf("rules of others are back: %v", g.rulesMissing())
	}
	f.there, f.blind = false, errors.New("only root may look")
	g.lookAtRules(t.Context(), now)
	if g.rulesMissing() != nil {
		t.Errorf("what is not known is said to be missing: %v", g.rulesMissing())
	}

	f = &fakeRules{name: "iptables"}
	g, log := guarded(t, f)
	f.there, f.failing = false, errors.New("no such program")
	for range 10 {
		now = now.Add(firstPause)
		g.lookAtRules(t.Context(), now)
	}
	if f.loads < 5 || strings.Count(log.String(), "no such program") != 1 || g.rulesMissing() == nil {
		t.Errorf("%d loads, %v, log %s", f.loads, g.rulesMissing(), log)
	}
	f.failing = nil
	g.lookAtRules(t.Context(), now.Add(longestPause))
	if g.rulesMissing() != nil {
		t.Errorf("loaded in the end: %v", g.rulesMissing())
	}
}

// TestReadyWithoutRules: a daemon without its rules is not ready, and says why.
func TestReadyWithoutRules(t *testing.T) {
	f := &fakeRules{name: choice.None}
	g, _ := guarded(t, f)
	g.ready.Store(true)
	if err := g.Ready(time.Now()); err != nil {
		t.Errorf("with rules: %v", err)
	}
	f.there = false
	g.lookAtRules(t.Context(), time.Now())
	if err := g.Ready(time.Now()); !errors.Is(err, errRulesNever) {
		t.Errorf("without rules: %v", err)
	}
}

// TestGuardHearsAgain: where changes cannot be heard of, the log says so once, and the rules are
// looked at until the gateway stops.
func TestGuardHearsAgain(t *testing.T) {
	f := &fakeRules{name: "iptables", deaf: errors.New("no ears")}
	g, log := guarded(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	f.watched = cancel
	g.watchRules(ctx, func() {})
	if got := strings.Count(log.String(), "no ears"); got != 1 {
		t.Errorf("logged %d times: %s", got, log)
	}
}

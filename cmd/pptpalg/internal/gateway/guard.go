package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/rules/choice"
)

// Other programs change firewall rules as well: a script flushes the ruleset, a firewall is
// reloaded. So the guard looks whether the rules are there whenever the backend says that
// something may have changed, and loads them again.
const (
	// lookInterval is how often the guard looks although nobody has told of a change.
	lookInterval = 30 * time.Second
	// lookPause lets a program that changes rules finish. It is also the shortest time from
	// one look to the next, and a look that took long is followed by a longer pause, up to
	// lookLongest.
	lookPause   = 50 * time.Millisecond
	lookLongest = 400 * time.Millisecond
	lookShare   = 20
)

// A program that removes the rules each time they are loaded would make the guard and itself
// load and remove for ever. So the rules are loaded again at once a few times in a row, and
// then after pauses that double. Rules that have stayed for a while end the row.
const (
	atOnce       = 3
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	stayed       = time.Minute
)

// quarrel says when the rules may be loaded again.
type quarrel struct {
	row  int       // losses in a row
	next time.Time // no load before that
	had  time.Time // when the rules were loaded last
}

// lost notes that the rules are gone, and returns how long to wait before they are loaded.
func (q *quarrel) lost(now time.Time) time.Duration {
	if now.Sub(q.had) > stayed {
		q.row = 0
	}
	q.row++
	pause := time.Duration(0)
	if beyond := q.row - atOnce; beyond > 0 {
		pause = min(firstPause<<min(beyond-1, 16), longestPause)
	}
	q.next = now.Add(pause)
	return pause
}

// loaded notes that the rules are there.
func (q *quarrel) loaded(now time.Time) { q.had = now }

// errRules are why the daemon is not ready without its rules.
var (
	errRulesLost  = errors.New("the firewall rules are missing: another program has removed or changed them, or inserted others before them; new calls are not edited")
	errRulesKept  = errors.New("the firewall rules are missing: another program keeps removing them, and they are loaded again after a pause; new calls are not edited")
	errRulesNever = errors.New("no firewall rule sends control connections to the daemon's queue (--rules none); new calls are not edited")
)

// guard is the state of the guard. Only its goroutine changes it.
type guard struct {
	missing atomic.Pointer[error]     // why the rules are missing; nil while they are there
	since   atomic.Pointer[time.Time] // when they were loaded, or came back; nil before
	quarrel quarrel
	failed  bool // the last load has failed, and was logged

	contested atomic.Bool // another program has removed the rules several times in a row
}

// rulesMissing returns why the firewall rules are not there, nil if they are. It may be called
// from any goroutine.
func (g *Gateway) rulesMissing() error {
	if why := g.guard.missing.Load(); why != nil {
		return *why
	}
	return nil
}

// RulesSince returns since when the firewall rules are there without a break, as far as the
// daemon knows; zero while they are not. It may be called from any goroutine.
func (g *Gateway) RulesSince() time.Time {
	since := g.guard.since.Load()
	if since == nil || g.rulesMissing() != nil {
		return time.Time{}
	}
	return *since
}

// RulesContested reports whether another program keeps removing the rules, also while they are
// there: it does until they have stayed for a while. It may be called from any goroutine.
func (g *Gateway) RulesContested(now time.Time) bool {
	since := g.RulesSince()
	return g.guard.contested.Load() && (since.IsZero() || now.Sub(since) <= stayed)
}

func (g *Gateway) rulesLoaded() float64 {
	if g.loaded.Load() == nil || g.rulesMissing() != nil {
		return 0
	}
	return 1
}

// guardRules looks after the firewall rules until ctx is done.
func (g *Gateway) guardRules(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	changed := func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		g.watchRules(ctx, changed)
		return nil
	})
	group.Go(func() error {
		for g.waitToLook(ctx, changes) {
			began := time.Now()
			g.lookAtRules(ctx, began)
			sleep(ctx, min(max(lookPause, lookShare*time.Since(began)), lookLongest))
		}
		return nil
	})
	return group.Wait()
}

// watchRules hears of changes until ctx is done. Where it cannot, it tries again every so often.
func (g *Gateway) watchRules(ctx context.Context, changed func()) {
	said := ""
	for ctx.Err() == nil {
		err := g.firewall.Watch(ctx, changed)
		if err == nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			g.log.Warn("cannot listen to changes of the firewall rules: they are checked periodically instead", "interval", lookInterval, "err", err)
		}
		sleep(ctx, lookInterval)
	}
}

// waitToLook waits for a change, and for what is due. It returns false when ctx is done.
func (g *Gateway) waitToLook(ctx context.Context, changes <-chan struct{}) bool {
	interval := lookInterval
	if g.rulesMissing() != nil {
		interval = min(interval, max(lookPause, time.Until(g.guard.quarrel.next)))
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-changes:
		sleep(ctx, lookPause)
	}
	return ctx.Err() == nil
}

// lookAtRules finds out whether the rules are there, and loads them again if they are not and if
// that is the daemon's task.
func (g *Gateway) lookAtRules(ctx context.Context, now time.Time) {
	there, err := g.firewall.Present(ctx, g.rules())
	switch {
	case ctx.Err() != nil:
	case err != nil:
		g.log.Debug("cannot check the firewall rules", "err", err)
	case there:
		g.guard.since.CompareAndSwap(nil, &now)
		g.rulesBack(now, "firewall rules are there again")
	default:
		g.rulesGone(now)
		g.loadAgain(ctx, now)
	}
}

func (g *Gateway) rulesBack(now time.Time, message string) {
	if g.guard.missing.Swap(nil) != nil {
		g.guard.since.Store(&now)
		g.events.Add(&history.Event{Time: now, Kind: history.RulesBack})
		g.log.Warn(message, "rules", g.RulesBy())
	}
}

// rulesGone notes that the rules are missing, once.
func (g *Gateway) rulesGone(now time.Time) {
	if g.rulesMissing() != nil {
		return
	}
	g.metrics.rulesLost.Inc()
	g.events.Add(&history.Event{Time: now, Kind: history.RulesLost})
	why := errRulesLost
	pause := g.guard.quarrel.lost(now)
	g.guard.contested.Store(pause > 0 && g.RulesBy() != choice.None)
	switch {
	case g.RulesBy() == choice.None:
		why = errRulesNever
		g.log.Error("firewall rules are missing: load them again", "err", why)
	case pause > 0:
		why = errRulesKept
		g.log.Error("firewall rules are missing: another program keeps removing them; find out which, or make it load them (--rules none)", "loaded_again_in", pause, "times", g.guard.quarrel.row)
	default:
		g.log.Warn("firewall rules are missing: another program has removed or changed them, or inserted others before them")
	}
	g.guard.missing.Store(&why)
}

// loadAgain loads the rules that are missing, unless that has to wait or is not the daemon's
// task.
func (g *Gateway) loadAgain(ctx context.Context, now time.Time) {
	q := &g.guard.quarrel
	if g.RulesBy() == choice.None || now.Before(q.next) {
		return
	}
	done, err := g.firewall.Load(ctx, g.rules())
	if err != nil {
		q.next = now.Add(max(firstPause, q.next.Sub(now)))
		if !g.guard.failed && ctx.Err() == nil {
			g.log.Error("cannot load the firewall rules again; the daemon goes on trying", "err", err)
		}
		g.guard.failed = true
		return
	}
	g.guard.failed = false
	g.loaded.Store(&done)
	g.rulesChanged()
	q.loaded(now)
	g.rulesBack(now, "firewall rules are loaded again")
}

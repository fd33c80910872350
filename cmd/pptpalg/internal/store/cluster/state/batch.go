package state

import (
	"slices"
	"time"
)

// mostPending is how many calls may wait to be written. Beyond it, what is of no use to anybody is left out;
// if that is little, all are given up, and what the store lacks is found by comparing.
const mostPending = 1 << 17

// batch is what is to be written: the latest value of each call, once. What packets wait for
// goes first. The rest lingers: what happens to a call meanwhile goes with it.
type batch struct {
	pending map[CallKey]entry
	urgent  []CallKey // in order; keys that are pending no more, or again, may be among them
	due     []CallKey // nobody waits for them, and they have lingered
	behind  []CallKey // they have not
	oldest  time.Time // when the first of behind came
}

type entry struct {
	key    CallKey
	put    Put
	urgent bool
	untold bool      // nothing of the call was ever tried to be written
	until  time.Time // of a call that is over: its IDs rest
}

// idle reports whether nobody has a use for it: the store has never known of the call, and its IDs rest no
// more.
func (e *entry) idle(now time.Time) bool {
	return e.untold && e.put.Keep > 0 && !now.Before(e.until)
}

// add takes in the latest value of a call. It reports false if there was too much.
func (b *batch) add(e entry, now time.Time) bool {
	if b.pending == nil {
		b.pending = make(map[CallKey]entry)
	}
	if len(b.pending) >= mostPending {
		if b.tidy(now); len(b.pending) > mostPending/2 {
			*b = batch{}
			return false
		}
	}
	old, known := b.pending[e.key]
	e.urgent = e.urgent || known && old.urgent
	e.untold = e.untold || known && old.untold
	b.pending[e.key] = e
	switch {
	case known && old.urgent == e.urgent: // its place is kept
	case e.urgent:
		b.urgent = append(b.urgent, e.key)
	default:
		if len(b.behind) == 0 {
			b.oldest = now
		}
		b.behind = append(b.behind, e.key)
	}
	return true
}

// tidy leaves out what is of no use.
func (b *batch) tidy(now time.Time) {
	for k, e := range b.pending {
		if e.idle(now) {
			delete(b.pending, k)
		}
	}
	over := func(k CallKey) bool { _, pending := b.pending[k]; return !pending }
	b.urgent, b.due, b.behind = slices.DeleteFunc(b.urgent, over), slices.DeleteFunc(b.due, over), slices.DeleteFunc(b.behind, over)
}

// back takes in what could not be written, unless there is something later. Waited says that
// packets go on waiting for it.
func (b *batch) back(entries []entry, waited bool, now time.Time) (fits bool) {
	fits = true
	for _, e := range entries {
		if _, later := b.pending[e.key]; later {
			continue
		}
		e.urgent, e.untold = e.urgent && waited, false
		fits = b.add(e, now) && fits
	}
	return fits
}

// calm has what packets waited for wait for company as everything else.
func (b *batch) calm() {
	for _, k := range b.urgent {
		if e, pending := b.pending[k]; pending {
			e.urgent = false
			b.pending[k] = e
		}
	}
	b.behind = append(b.behind, b.urgent...)
	b.urgent = b.urgent[:0]
}

// hurry has nothing linger any longer.
func (b *batch) hurry() {
	b.due = append(b.due, b.behind...)
	b.behind = b.behind[:0]
}

// ripen has what has lingered be due.
func (b *batch) ripen(now time.Time) {
	if len(b.behind) >= MaxPuts || !now.Before(b.oldest.Add(linger)) {
		b.hurry()
	}
}

// ripe returns when something will be due, zero for never.
func (b *batch) ripe() time.Time {
	if len(b.behind) == 0 {
		return time.Time{}
	}
	return b.oldest.Add(linger)
}

// take hands over what goes into the next transaction, of what can be written and is of use.
func (b *batch) take(most int, now time.Time, can func(CallKey) bool) (taken []entry) {
	for _, queue := range []*[]CallKey{&b.urgent, &b.due} {
		var skipped []CallKey
		for len(taken) < most && len(*queue) > 0 {
			e, pending := b.pending[(*queue)[0]]
			switch {
			case !pending:
			case e.idle(now):
				delete(b.pending, e.key)
			case !can(e.key):
				skipped = append(skipped, e.key)
			default:
				delete(b.pending, e.key)
				taken = append(taken, e)
			}
			*queue = (*queue)[1:]
		}
		if len(skipped) > 0 {
			*queue = append(skipped, *queue...)
		}
	}
	return taken
}

// ready reports whether something is to be written now, or else from when on. What nobody
// waits for lingers a moment, so that it goes along with what somebody does.
func (b *batch) ready(now time.Time) (bool, time.Time) {
	b.ripen(now)
	switch {
	case len(b.pending) == 0:
		return false, time.Time{}
	case len(b.urgent)+len(b.due) > 0:
		return true, now
	}
	return false, b.ripe()
}

// linger is how long a change waits for company that nobody waits for. Most calls are over so soon
// after they began to clear.
const linger = 10 * time.Millisecond

// drop gives up calls and returns what was to be written of them.
func (b *batch) drop(dropped func(CallKey) bool) (all []entry) {
	for k, e := range b.pending {
		if dropped(k) {
			all = append(all, e)
			delete(b.pending, k)
		}
	}
	b.urgent = slices.DeleteFunc(b.urgent, dropped)
	b.due = slices.DeleteFunc(b.due, dropped)
	b.behind = slices.DeleteFunc(b.behind, dropped)
	return all
}

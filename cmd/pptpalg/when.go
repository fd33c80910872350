package main

import (
	"strconv"
	"strings"
	"time"

	"pptpalg/cmd/pptpalg/internal/config"
)

// whenForms are those that parseWhen reads, in words.
const whenForms = `a time such as "2026-01-31 15:04:05", "15:04" or "yesterday", or an age such as "2h" or "7d"`

// layouts are the forms of a point in time, other than how long ago it was. Those without a
// date are of today.
var layouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly}

// clocks are those of a time today.
var clocks = []string{time.TimeOnly, "15:04"}

// parseWhen reads a point in time, in the time zone of now where it names none.
func parseWhen(text string, now time.Time) (time.Time, error) {
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch text {
	case "now":
		return now, nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	}
	if ago, ok := parseAgo(text); ok {
		return now.Add(-ago), nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range clocks {
		if t, err := time.ParseInLocation(time.DateOnly+" "+layout, now.Format(time.DateOnly)+" "+text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, config.ErrUnfit
}

// parseAgo reads how long ago a time was: a duration, or days as 7d. A minus, as journalctl
// has it, says nothing more.
func parseAgo(text string) (time.Duration, bool) {
	text = strings.TrimPrefix(text, "-")
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err == nil
	}
	ago, err := time.ParseDuration(text)
	return ago, err == nil && ago >= 0
}

// whenFlag is a flag with a point in time; the zero value is none.
type whenFlag struct {
	text string
	time time.Time
}

func (w *whenFlag) String() string { return w.text }
func (w *whenFlag) Type() string   { return "time" }

// Set reads it.
func (w *whenFlag) Set(text string) (err error) {
	w.text = text
	w.time, err = parseWhen(text, time.Now())
	return err
}

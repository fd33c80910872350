package main

import (
	"testing"
	"time"
)

func TestParseWhen(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, zone)
	at := func(month time.Month, day, hour, minute, second int) time.Time {
		return time.Date(2026, month, day, hour, minute, second, 0, zone)
	}
	for text, want := range map[string]time.Time{
		"now":                      now,
		"today":                    at(3, 4, 0, 0, 0),
		"yesterday":                at(3, 3, 0, 0, 0),
		"90m":                      at(3, 4, 3, 36, 7),
		"-90m":                     at(3, 4, 3, 36, 7),
		"7d":                       at(2, 25, 5, 6, 7),
		"03:04":                    at(3, 4, 3, 4, 0),
		"03:04:05":                 at(3, 4, 3, 4, 5),
		"2026-02-03":               at(2, 3, 0, 0, 0),
		"2026-02-03 04:05":         at(2, 3, 4, 5, 0),
		"2026-02-03 04:05:06":      at(2, 3, 4, 5, 6),
		"2026-02-03T04:05:06":      at(2, 3, 4, 5, 6),
		"2026-02-03T04:05:06.000Z": at(2, 3, 6, 5, 6),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "25:00", "2026-13-01", "-1d-", "--1h", "1e9d"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

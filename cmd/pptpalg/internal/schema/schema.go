// Package schema owns what all JSON of pptpalg has in common: its version, and how it writes
// times. docs/JSON.md says what each command prints, and docs/schema has it for programs.
package schema

import (
	"fmt"
	"strconv"
	"time"
)

// SchemaVersion is of the shapes in docs/schema. Fields may be added under it. It changes
// when one goes, or means something else.
const SchemaVersion = 1

// Version is the field schema_version: always the current one when it is written.
type Version struct{}

// MarshalJSON writes the version.
func (Version) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, SchemaVersion, 10), nil }

// UnmarshalJSON takes any version: a reader finds what it knows.
func (*Version) UnmarshalJSON([]byte) error { return nil }

// timeForm is RFC 3339 in UTC, always with milliseconds.
const timeForm = "2006-01-02T15:04:05.000Z"

// Time is a point in time.
type Time struct{ time.Time }

// At returns a point in time, to the millisecond.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

// String is the form that JSON has.
func (t Time) String() string { return t.UTC().Format(timeForm) }

// MarshalJSON writes null where no time is known.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return t.UTC().AppendFormat(nil, `"`+timeForm+`"`), nil
}

// Seconds is a duration, always written with milliseconds.
type Seconds float64

// For returns a duration.
func For(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// MarshalJSON writes three digits behind the point.
func (s Seconds) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%.3f", float64(s)), nil }

// Moment is a time in a capture: seconds since its first packet, always written with
// microseconds.
type Moment float64

// MarshalJSON writes six digits behind the point.
func (m Moment) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%.6f", float64(m)), nil }

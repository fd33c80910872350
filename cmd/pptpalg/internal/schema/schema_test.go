package schema

import (
	"encoding/json"
	"testing"
	"time"
)

func TestForms(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for want, v := range map[string]any{
		"1":                          Version{},
		`"2026-01-02T02:04:05.000Z"`: At(at),
		`"2026-01-02T02:04:05.120Z"`: At(at.Add(120*time.Millisecond + 999*time.Microsecond)),
		"null":                       Time{},
		"1.500":                      For(1500 * time.Millisecond),
		"0.000":                      Seconds(0),
		"2.000001":                   Moment(2.000001),
	} {
		if got, err := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%T is %s (%v), want %s", v, got, err, want)
		}
	}
	var back struct {
		V Version
		T Time
		S Seconds
	}
	if err := json.Unmarshal([]byte(`{"V":2,"T":"2026-01-02T02:04:05.000Z","S":1.500}`), &back); err != nil || !back.T.Equal(at) || back.S != 1.5 {
		t.Errorf("read back: %v (%v)", back, err)
	}
}

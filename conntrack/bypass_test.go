package conntrack

import "testing"

func TestParseBypass(t *testing.T) {
	rows := []struct {
		text string
		want Bypass
		back string // what String makes of it
	}{
		{"none", Bypass{}, "none"},
		{"label:118", Bypass{Label: 118, Labelled: true}, "label:118"},
		{"label:0", Bypass{Labelled: true}, "label:0"},
		{"label:127", Bypass{Label: 127, Labelled: true}, "label:127"},
		{"mark:0x20000000", Bypass{Mark: 0x20000000}, "mark:0x20000000"},
		{"mark:3", Bypass{Mark: 3}, "mark:0x3"},
		{"mark:0xffffffff", Bypass{Mark: 0xffffffff}, "mark:0xffffffff"},
	}
	for _, row := range rows {
		got, err := ParseBypass(row.text)
		if err != nil || got != row.want || got.String() != row.back {
			t.Errorf("%s: got %+v (%v), %v; want %+v", row.text, got, got, err, row.want)
		}
	}
	for _, text := range []string{"", "label", "label:", "label:128", "label:-1", "label:0x1", "label:300", "mark:", "mark:0", "mark:0x100000000", "118", "none:1"} {
		if got, err := ParseBypass(text); err == nil || got != (Bypass{}) {
			t.Errorf("%q: got %+v, %v; want an error", text, got, err)
		}
	}
}

package rules

import (
	"strings"
	"testing"

	"pptpalg/conntrack"
)

var onePort = Config{Queue: 1723, Ports: []uint16{1723}}

func TestValidate(t *testing.T) {
	rows := []struct {
		name string
		c    Config
		want string
	}{
		{"one port", onePort, ""},
		{"queue 0", Config{Ports: []uint16{1723, 1}}, ""},
		{"no port", Config{Queue: 1}, "validate ports: none given"},
		{"port 0", Config{Ports: []uint16{1723, 0}}, "validate ports: 0 is not a port"},
		{"both marks", Config{Ports: []uint16{1}, Bypass: conntrack.Bypass{Mark: 1, Labelled: true}}, "validate bypass: both a mark and a label given"},
		{"label", Config{Ports: []uint16{1}, Bypass: conntrack.Bypass{Label: 128, Labelled: true}}, "validate bypass: label 128 is above 127"},
		{"port twice", Config{Ports: []uint16{1723, 1, 1723}}, "validate ports: 1723 given twice"},
	}
	for _, row := range rows {
		got := ""
		if err := row.c.Validate(); err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestResetValidate(t *testing.T) {
	rows := []struct {
		name string
		c    Config
		want string
	}{
		{"beside others", Config{ResetMark: 1, Bypass: conntrack.Bypass{Mark: 2}}, ""},
		{"that of bypass", Config{ResetMark: 3, Bypass: conntrack.Bypass{Mark: 2}}, "shares bits with the mark of bypass"},
		{"that of GRE, which no TCP has", Config{ResetMark: 4, Data: Data{Queue: 1, Queues: 1, Mark: 4}}, ""},
	}
	for _, row := range rows {
		row.c.Ports = []uint16{1723}
		got := ""
		if err := row.c.Validate(); err != nil {
			got = err.Error()
		}
		if (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// TestLesser: each part that a kernel may lack goes alone, and with others; what matters least goes first.
func TestLesser(t *testing.T) {
	all := Config{Ports: []uint16{1723}, TooBig: true, Bypass: conntrack.Bypass{Mark: 1}}
	lesser := all.Lesser()
	if len(lesser) != 7 || lesser[0].TooBig || lesser[0].Bypass != all.Bypass || lesser[0].AllSegments {
		t.Errorf("less than all: %+v", lesser)
	}
	if last := lesser[len(lesser)-1]; last.TooBig || last.Bypass != (conntrack.Bypass{}) || !last.AllSegments {
		t.Errorf("the least: %+v", last)
	}
	if got := (Config{AllSegments: true}).Lesser(); len(got) != 0 {
		t.Errorf("less than nothing: %+v", got)
	}
}

package fast

import (
	"testing"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
)

func TestDifference(t *testing.T) {
	xdp, tc, both := ports.Port{Index: 2, Name: "a", XDP: true}, ports.Port{Index: 3, Name: "b", TC: true}, ports.Port{Index: 2, Name: "a", XDP: true, TC: true}
	down, byTC := ports.Port{Index: 2, Name: "a"}, ports.Port{Index: 2, Name: "a", TC: true}
	attached := func(all ...ports.Port) (told []fastpath.Attached) {
		for _, p := range all {
			told = append(told, fastpath.Attached{Port: p})
		}
		return told
	}
	tests := []struct {
		name     string
		chosen   []ports.Port
		attached []fastpath.Attached
		want     string
	}{
		{"nothing", nil, nil, ""},
		{"alike", []ports.Port{xdp, tc}, attached(xdp, tc), ""},
		{"nothing attached", []ports.Port{xdp, tc}, nil, "a, b"},
		{"one is new", []ports.Port{xdp, tc}, attached(xdp), "b"},
		{"one is gone", []ports.Port{tc}, attached(xdp, tc), "without interface 2"},
		{"one came back under another index", []ports.Port{{Index: 9, Name: "a", TC: true}, tc}, attached(byTC, tc), "a, without interface 2"},
		{"one is down for now", []ports.Port{down, tc}, attached(xdp, tc), ""},
		{"one is not to be used", []ports.Port{down, tc}, attached(tc), ""},
		{"XDP would skip a qdisc now", []ports.Port{byTC, tc}, attached(both, tc), "a without XDP"},
		{"XDP was refused", []ports.Port{xdp, tc}, attached(byTC, tc), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := difference(tt.chosen, tt.attached); got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
		})
	}
	if got, want := Summary(attached(both, tc, down)), "a xdp+tc, b tc"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

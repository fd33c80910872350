package ports

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"pptpalg/cmd/internal/netns"
)

// TestHeld: our programs are found where they are, and others' are not ours.
func TestHeld(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(t *testing.T, p *netns.Place)
		want Held
	}{
		{"nothing", script(""), Held{}},
		{"XDP", func(t *testing.T, p *netns.Place) { attachXDP(t, p, "wan", ProgramPrefix+"_xdp") }, Held{XDP: true}},
		{"another's XDP", func(t *testing.T, p *netns.Place) { attachXDP(t, p, "wan", "another") }, Held{}},
		{"tcx ingress", tcx(ebpf.AttachTCXIngress, ProgramPrefix), Held{In: true}},
		{"tcx egress", tcx(ebpf.AttachTCXEgress, ProgramPrefix), Held{Out: true}},
		{"another's tcx", tcx(ebpf.AttachTCXEgress, "another"), Held{}},
		{"clsact", clsact(ProgramPrefix), Held{Out: true}},
		{"another's clsact", clsact("another"), Held{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := place(t, twoPairs)
			index := chosen(t, p, XDP, "wan")["wan"].Index
			row.make(t, p)
			do(t, p, func() error {
				got, err := AskHeld([]int{index, index + 1000})
				if diff := cmp.Diff(row.want, got[index]); diff != "" || len(got) > 1 {
					t.Errorf("(-want +got)\n%s%v", diff, got)
				}
				return err
			})
		})
	}
}

package history

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

func client(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// from is an event of a client that NAT hides.
func from(i int, number uint64) *Event {
	a := netip.AddrPortFrom(client(i), 4000)
	server := netip.MustParseAddrPort("203.0.113.9:1723")
	return &Event{
		Kind: CallRequested, Call: Call{Number: number},
		Ends: [2]End{{a, netip.MustParseAddrPort("198.51.100.1:4000")}, {server, server}},
	}
}

func numbers(events []Event) (all []uint64) {
	for _, e := range events {
		all = append(all, e.Call.Number)
	}
	return all
}

func TestRing(t *testing.T) {
	s := NewStore(2, 3)
	for n := range uint64(5) {
		s.Add(from(1, n))
	}
	s.Add(from(2, 10))
	if diff := cmp.Diff([]uint64{2, 3, 4}, numbers(s.Of(client(1)))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	s.Add(from(1, 5)) // now the second client is the one used longest ago
	s.Add(from(3, 20))
	for i, want := range map[int][]uint64{1: {3, 4, 5}, 2: nil, 3: {20}} {
		if diff := cmp.Diff(want, numbers(s.Of(client(i)))); diff != "" {
			t.Errorf("client %d (-want +got)\n%s", i, diff)
		}
	}
	for i := range 100 {
		s.Add(from(i, uint64(i)))
	}
	if len(s.rings) != 2 || len(s.Of(client(98))) != 1 || len(s.Of(client(99))) != 1 {
		t.Errorf("%d clients are kept", len(s.rings))
	}
}

func TestOneClient(t *testing.T) {
	s := NewStore(1, 1)
	for i := range 3 {
		s.Add(from(i, uint64(i)))
		if diff := cmp.Diff([]uint64{uint64(i)}, numbers(s.Of(client(i)))); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

// TestWhose: an event is its inside ends'.
func TestWhose(t *testing.T) {
	in, out := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	public, other := netip.MustParseAddrPort("198.51.100.1:1"), netip.MustParseAddrPort("198.51.100.2:2")
	for _, tt := range []struct {
		name string
		ends [2]End
		want []string
	}{
		{"source translated", [2]End{{in, public}, {out, out}}, []string{"10.0.0.1"}},
		{"destination translated", [2]End{{out, out}, {in, public}}, []string{"10.0.0.1"}},
		{"both", [2]End{{in, public}, {out, other}}, []string{"10.0.0.1", "192.0.2.1"}},
		{"neither", [2]End{{in, in}, {out, out}}, []string{"10.0.0.1", "192.0.2.1"}},
	} {
		var got []string
		(&Event{Ends: tt.ends}).inside(func(a netip.Addr) { got = append(got, a.String()) })
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestSlow: who does not keep up loses events, and is told how many.
func TestSlow(t *testing.T) {
	s := NewStore(1, 1)
	slow := s.Subscribe(2, CallRequested)
	defer slow.Close()
	for n := range uint64(5) {
		s.Add(from(1, n))
	}
	s.Add(&Event{Kind: MessageRead}) // not asked for
	var got []string
	for range 2 {
		e, lost, err := slow.Next(t.Context())
		got = append(got, fmt.Sprint(e.Call.Number, lost, err))
	}
	if diff := cmp.Diff([]string{"0 3 <nil>", "1 0 <nil>"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := slow.Next(over); err == nil {
		t.Error("there is one more")
	}
	slow.Close()
	if s.Add(from(1, 1)); s.wanted != 0 || len(s.subscribers) != 0 {
		t.Errorf("somebody still wants %b", s.wanted)
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	s := NewStore(2, 8)
	e := from(1, 1)
	s.Add(e)
	if n := testing.AllocsPerRun(100, func() { s.Add(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		pptp.OutgoingCallReply.ResultWords(4):            "4 (busy)",
		pptp.StartControlConnectionReply.ResultWords(99): "99 (unknown)",
		pptp.SetLinkInfo.ResultWords(1):                  "",
		pptp.ErrorWords(0):                               "",
		pptp.ErrorWords(4):                               "4 (no resource: not enough to handle this now)",
		pptp.ErrorWords(77):                              "77 (unknown)",
		CallClosed.String():                              "call_closed",
		Kind(99).String():                                "unknown(99)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// BenchmarkAdd is a message of one of so many clients, in turn.
func BenchmarkAdd(b *testing.B) {
	for _, clients := range []int{1, 100, 5000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			s := NewStore(DefaultClients, DefaultPerClient)
			all := make([]*Event, clients)
			for i := range all {
				all[i] = from(i, 1)
				all[i].Kind, all[i].Message = MessageRead, alg.Message{Type: pptp.OutgoingCallReply}
				s.Add(all[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Add(all[i])
				if i++; i == clients {
					i = 0
				}
			}
		})
	}
}

// BenchmarkEndsOf is what a message takes besides.
func BenchmarkEndsOf(b *testing.B) {
	c := calls.Connection{Original: calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.1:1")}}
	var e Event
	for b.Loop() {
		e.Ends = EndsOf(&c)
	}
	_ = e
}

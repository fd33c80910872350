package meter

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pptpalg/alg/calls"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// A call between client C and server S, behind public address P. The client is the PNS.
var (
	clientAddr = netip.MustParseAddr("10.0.0.10")
	serverAddr = netip.MustParseAddr("203.0.113.9")
	public     = netip.MustParseAddr("198.51.100.1")
	toClient   = calls.Flow{Src: serverAddr, Dst: public, Key: 255, NewSrc: serverAddr, NewDst: clientAddr, NewKey: 7}
	toServer   = calls.Flow{Src: clientAddr, Dst: serverAddr, Key: 9, NewSrc: public, NewDst: serverAddr, NewKey: 9}
)

func call(state calls.State, since time.Time) calls.View {
	return calls.View{
		Number: 1, State: state, Since: since, Flows: []calls.Flow{toClient, toServer},
		PNS:     calls.Party{Endpoint: calls.Endpoint{Address: clientAddr, Public: public}, Known: true, Own: 7, Public: 255},
		PAC:     calls.Party{Endpoint: calls.Endpoint{Address: serverAddr, Public: serverAddr}, Known: true, Own: 9, Public: 9},
		Control: calls.Tuple{Src: netip.AddrPortFrom(clientAddr, 4000), Dst: netip.AddrPortFrom(serverAddr, 1723)},
	}
}

func once(views []calls.View) iter.Seq[[]calls.View] { return slices.Values([][]calls.View{views}) }

// counted are packets to the client and to the server, of 100 bytes each.
func counted(client, server uint64) map[calls.Flow]calls.Traffic {
	return map[calls.Flow]calls.Traffic{
		toClient: {Packets: client, Bytes: 100 * client, Counted: true},
		toServer: {Packets: server, Bytes: 100 * server, Counted: true},
	}
}

// TestCarriage has a call looked at every two seconds from its beginning. Each row has what it
// had carried at each look.
func TestCarriage(t *testing.T) {
	type counts struct{ client, server []uint64 }
	grows := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	none := make([]uint64, 10)
	tests := []struct {
		name   string
		counts counts
		want   []Kind // at each look
		toPNS  bool
		since  time.Duration
	}{
		{"both ways", counts{grows, grows}, []Kind{3: Both, 9: Both}, false, 0},
		{"nothing", counts{none, none}, []Kind{4: Unknown, 5: Silent, 9: Silent}, false, 0},
		{"nothing from the server", counts{none, grows}, []Kind{2: Unknown, 3: OneWay, 9: OneWay}, true, 0},
		{"nothing from the client", counts{grows, none}, []Kind{2: Unknown, 3: OneWay, 9: OneWay}, false, 0},
		{"one packet only", counts{none, []uint64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}, []Kind{9: Unknown}, false, 0},
		{"the server stops", counts{[]uint64{1, 2, 3, 3, 3, 3, 3, 3, 3, 3}, grows}, []Kind{2: Both, 5: Both, 6: OneWay, 9: OneWay}, true, 4 * time.Second},
		{"the server stops and goes on", counts{[]uint64{1, 2, 3, 3, 3, 3, 3, 3, 4, 5}, grows}, []Kind{6: OneWay, 7: OneWay, 8: Both}, false, 0},
		{"both stop", counts{[]uint64{1, 2, 3, 3, 3, 3, 3, 3, 3, 3}, []uint64{1, 2, 3, 3, 3, 3, 3, 3, 3, 3}}, []Kind{9: Both}, false, 0},
		{"a packet one way now and then", counts{[]uint64{1, 2, 2, 2, 2, 2, 2, 2, 2, 2}, []uint64{1, 2, 2, 2, 2, 2, 2, 2, 3, 3}}, []Kind{9: Both}, false, 0},
		{"one way, then silence", counts{[]uint64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []uint64{1, 2, 3, 4, 5, 6, 6, 6, 6, 6}}, []Kind{9: OneWay}, true, 0},
		{"counting begins again", counts{[]uint64{5, 6, 0, 1, 2, 3, 4, 5, 6, 7}, grows}, []Kind{9: Both}, false, 0},
		{"counting begins again, and nothing is left", counts{[]uint64{5, 6, 0, 0, 0, 0, 0, 0, 0, 0}, []uint64{5, 6, 0, 0, 0, 0, 0, 0, 0, 0}}, []Kind{9: Both}, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := New(Source{})
			var last Carriage
			for i := range 10 {
				m.Observe(noon.Add(time.Duration(i)*2*time.Second), []calls.View{call(calls.Established, noon)}, counted(tt.counts.client[i], tt.counts.server[i]))
				last = m.Of(1)
				if i < len(tt.want) && tt.want[i] != Unknown && last.Kind != tt.want[i] {
					t.Errorf("look %d: %v, want %v", i, last.Kind, tt.want[i])
				}
			}
			if want := tt.want[len(tt.want)-1]; last.Kind != want || m.Count(want) != 1 {
				t.Errorf("in the end %v, want %v", last.Kind, want)
			}
			if last.Kind == OneWay && (last.ToPNS != tt.toPNS || !last.Since.Equal(noon.Add(tt.since))) {
				t.Errorf("%+v, want it since %v", last, tt.since)
			}
		})
	}
}

// TestNotJudged: nothing is said of a call that is not up, is not counted, or has ended.
func TestNotJudged(t *testing.T) {
	long := noon.Add(-time.Hour)
	partly := counted(0, 9)
	partly[toClient] = calls.Traffic{Counted: true, AtLeast: true}
	for name, look := range map[string]struct {
		views   []calls.View
		carried map[calls.Flow]calls.Traffic
	}{
		"requested":      {[]calls.View{call(calls.Requested, long)}, counted(0, 9)},
		"not counted":    {[]calls.View{call(calls.Established, long)}, map[calls.Flow]calls.Traffic{}},
		"counted partly": {[]calls.View{call(calls.Established, long)}, partly},
		"ended":          {nil, nil},
	} {
		m := New(Source{})
		m.Observe(noon, []calls.View{call(calls.Established, long)}, counted(0, 9))
		if m.Count(OneWay) != 1 {
			t.Fatalf("before: %+v", m.Of(1))
		}
		m.Observe(noon.Add(time.Minute), look.views, look.carried)
		if c := m.Of(1); c.Kind != Unknown || m.Count(OneWay) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestAnsweredLate: what counts is when a call was established, not when it was asked for.
func TestAnsweredLate(t *testing.T) {
	m := New(Source{})
	m.Observe(noon, []calls.View{call(calls.Requested, noon)}, counted(0, 0))
	m.Observe(noon.Add(time.Minute), []calls.View{call(calls.Established, noon)}, counted(0, 2))
	if c := m.Of(1); c.Kind != Unknown {
		t.Errorf("at once: %+v", c)
	}
	m.Observe(noon.Add(time.Minute+firstPackets), []calls.View{call(calls.Established, noon)}, counted(0, 3))
	if c := m.Of(1); c.Kind != OneWay || !c.Since.Equal(noon.Add(time.Minute)) {
		t.Errorf("then: %+v", c)
	}
}

// TestObserveLate: what somebody else has seen before the last look changes nothing.
func TestObserveLate(t *testing.T) {
	m := New(Source{})
	m.Observe(noon, []calls.View{call(calls.Established, noon)}, counted(9, 9))
	m.Observe(noon.Add(-time.Second), nil, nil)
	m.Observe(noon.Add(time.Second), []calls.View{call(calls.Established, noon)}, nil) // conntrack could not be read
	if c := m.Of(1); c.Kind != Both {
		t.Errorf("%+v", c)
	}
	var absent *Meter
	absent.Observe(noon, nil, nil)
	if absent.Of(1) != (Carriage{}) || absent.Count(OneWay) != 0 || absent.Past() != nil {
		t.Error("a meter that is none knows something")
	}
}

func TestPast(t *testing.T) {
	m := New(Source{})
	views := []calls.View{call(calls.Established, noon)}
	for i := range uint64(5) {
		m.Observe(noon.Add(time.Duration(i)*Step/2), views, counted(10*i, 20*i))
	}
	want := []Sample{
		{At: noon.Add(Step), Calls: 1, ToClients: 2000 / Step.Seconds(), ToServers: 4000 / Step.Seconds(), Packets: 60 / Step.Seconds()},
		{At: noon.Add(2 * Step), Calls: 1, ToClients: 2000 / Step.Seconds(), ToServers: 4000 / Step.Seconds(), Packets: 60 / Step.Seconds()},
	}
	if diff := cmp.Diff(want, m.Past(), cmpopts.EquateApprox(0, unit/Step.Seconds())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i := range 1000 {
		m.Observe(noon.Add(time.Hour+time.Duration(i)*Step), nil, nil)
	}
	if n := len(m.Past()); n != int(Span/Step)+1 {
		t.Errorf("%d samples are kept", n)
	}
}

// TestLatest: the last sample tells of now only while it is new.
func TestLatest(t *testing.T) {
	m := New(Source{})
	look := func(i int) {
		m.Observe(noon.Add(time.Duration(i)*Step), []calls.View{call(calls.Established, noon)}, counted(uint64(10*i), uint64(20*i)))
	}
	look(0)
	if s, known := m.Latest(noon.Add(Step), time.Minute); known {
		t.Errorf("before the first step has ended: %+v", s)
	}
	look(1)
	if s, known := m.Latest(noon.Add(Step+time.Minute), time.Minute); !known || s.Packets != 30/Step.Seconds() {
		t.Errorf("after it: %+v, %v", s, known)
	}
	if s, known := m.Latest(noon.Add(Step+time.Minute+1), time.Minute); known {
		t.Errorf("long after it: %+v", s)
	}
	var absent *Meter
	if _, known := absent.Latest(noon, time.Minute); known {
		t.Error("a meter that is none knows something")
	}
}

// TestPace: calls in doubt are looked at often, others seldom, and none if that takes long.
func TestPace(t *testing.T) {
	for name, tt := range map[string]struct {
		views  []calls.View
		counts [2]uint64
		took   time.Duration
		looks  int // in a minute
	}{
		"no calls":   {nil, [2]uint64{}, 0, 13},
		"a call":     {[]calls.View{call(calls.Established, noon)}, [2]uint64{9, 9}, 0, 31},
		"in doubt":   {[]calls.View{call(calls.Answered, noon)}, [2]uint64{}, 0, 61},
		"takes long": {[]calls.View{call(calls.Answered, noon)}, [2]uint64{}, 100 * time.Millisecond, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				looks := 0
				m := New(Source{
					Calls: func() iter.Seq[[]calls.View] {
						looks++
						time.Sleep(tt.took)
						return once(tt.views)
					},
					Traffic: func() (map[calls.Flow]calls.Traffic, error) {
						if tt.views == nil {
							return nil, errors.New("there is nothing to look at")
						}
						return counted(tt.counts[0], tt.counts[1]), nil
					},
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Second)
				defer cancel()
				if err := m.Run(ctx); err != nil || looks > tt.looks+1 || looks < tt.looks-1 {
					t.Errorf("%d looks in a minute, want %d; %v", looks, tt.looks, err)
				}
			})
		})
	}
}

// TestOthersLook: the meter does not look where others do.
func TestOthersLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		views := []calls.View{call(calls.Established, time.Now())}
		m := New(Source{
			Calls:   func() iter.Seq[[]calls.View] { looks++; return once(views) },
			Traffic: func() (map[calls.Flow]calls.Traffic, error) { return counted(1, 1), nil },
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var others sync.WaitGroup
		defer others.Wait()
		others.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				time.Sleep(often)
				m.Observe(time.Now(), views, counted(n, n))
			}
		})
		if err := m.Run(ctx); err != nil || looks != 1 {
			t.Errorf("%d looks, %v", looks, err)
		}
	})
}

// TestManyCalls: each of many is known by its number, in whatever order they come.
func TestManyCalls(t *testing.T) {
	m := New(Source{})
	var views []calls.View
	for n := range uint64(1000) {
		v := call(calls.Established, noon)
		if v.Number = n * 7919 % 1000; v.Number%2 == 1 {
			v.Flows = nil
		}
		views = append(views, v)
	}
	for i := range uint64(4) {
		m.Observe(noon.Add(time.Duration(i)*time.Second), views, counted(i+1, i+1))
		views = views[:len(views)-1]
	}
	for n := range uint64(1003) {
		there := slices.ContainsFunc(views, func(v calls.View) bool { return v.Number == n }) || n == views[:len(views)+1][len(views)].Number
		want := Unknown
		if there && n%2 == 0 {
			want = Both
		}
		if got := m.Of(n).Kind; got != want {
			t.Errorf("call %d: %v, want %v", n, got, want)
		}
	}
}

// TestWithinTenSeconds has GRE from one end stop, at each instant between two looks, and an operator
// ask ten seconds later, who looks himself.
func TestWithinTenSeconds(t *testing.T) {
	for at := 20 * time.Second; at < 20*time.Second+usually; at += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			views := []calls.View{call(calls.Established, began)}
			carried := func() map[calls.Flow]calls.Traffic {
				age := time.Since(began)
				return counted(uint64(min(age, at)/(500*time.Millisecond)), uint64(age/(500*time.Millisecond)))
			}
			m := New(Source{
				Calls:   func() iter.Seq[[]calls.View] { return once(views) },
				Traffic: func() (map[calls.Flow]calls.Traffic, error) { return carried(), nil },
			})
			ctx, cancel := context.WithTimeout(t.Context(), at+10*time.Second)
			defer cancel()
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
			m.Observe(time.Now(), views, carried())
			if c := m.Of(1); c.Kind != OneWay || !c.ToPNS {
				t.Errorf("stopped at %v: %+v", at, c)
			}
		})
	}
}

// TestTooBig: what the kernel had counted before does not count.
func TestTooBig(t *testing.T) {
	m := New(Source{Calls: func() iter.Seq[[]calls.View] { return once(nil) }})
	now, kernel := noon, dropped{7, 70}
	m.now, m.dropped = func() time.Time { return now }, func() dropped { return kernel }
	m.look(now)
	if n, last := m.TooBig(); n != 0 || !last.IsZero() {
		t.Errorf("at first: %d, %v", n, last)
	}
	now, kernel = noon.Add(time.Minute), dropped{10, 74}
	m.look(now)
	now = noon.Add(time.Hour)
	if n, last := m.TooBig(); n != 3 || !last.Equal(noon.Add(time.Minute)) {
		t.Errorf("then: %d, %v", n, last)
	}
	if n, last := m.Astray(); n != 4 || !last.Equal(noon.Add(time.Minute)) {
		t.Errorf("astray: %d, %v", n, last)
	}
}

func TestField(t *testing.T) {
	const snmp = "Ip: Forwarding FragOKs FragFails FragCreates\nIp: 1 0 42 0\nIcmp: InMsgs FragFails\nIcmp: 5 6\n"
	if got := field(snmp, "Ip:", "FragFails"); got != 42 {
		t.Errorf("read %d", got)
	}
	for _, broken := range []string{"", "Ip:", "Ip: FragFails\n", "Ip: FragFails\nIp: x\n", "Icmp: FragFails\nIcmp: 3\n"} {
		if got := field(broken, "Ip:", "FragFails"); got != 0 {
			t.Errorf("%q is read as %d", broken, got)
		}
	}
	if name, mtu := WayTo(netip.MustParseAddr("127.0.0.1")); name != "" && (name != "lo" || mtu == 0) {
		t.Errorf("to itself by %s, %d", name, mtu)
	}
}

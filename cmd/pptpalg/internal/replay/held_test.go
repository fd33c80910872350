package replay

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/packet"
)

// messages lists what was read, without when.
func messages(r *Report) []string {
	var all []string
	for _, e := range listed(r) {
		if e.kind != 0 {
			all = append(all, strings.Join([]string{e.Src().String(), e.Message(), e.CallID().String(), e.Peer().String()}, " "))
		}
	}
	return all
}

// TestOutOfOrder exchanges segments that follow each other in one direction.
func TestOutOfOrder(t *testing.T) {
	b := capture(t, "bytes-lan")
	want := messages(play(t, b, lab...))
	all := frames(t, b)
	exchanged := 0
	for i := 1; i < len(all); i++ {
		if adjacent(t, all[i-1], all[i]) {
			all[i-1].data, all[i].data = all[i].data, all[i-1].data
			all[i-1].CaptureInfo, all[i].CaptureInfo = all[i].CaptureInfo, all[i-1].CaptureInfo
			exchanged++
			i++
		}
	}
	if exchanged < 10 {
		t.Fatalf("%d segments follow each other", exchanged)
	}
	r, out := written(t, pcap(t, linkEthernet, all), lab...)
	if diff := cmp.Diff(want, messages(r)); diff != "" {
		t.Errorf("messages (-in order +out of order):\n%s", diff)
	}
	if r.Totals.Behind != 0 || r.Totals.Written != len(all) {
		t.Errorf("%d were not read, %d of %d written", r.Totals.Behind, r.Totals.Written, len(all))
	}
	if !slices.ContainsFunc(listed(r), func(e *Event) bool { return e.Note() == "earlier bytes are missing" }) {
		t.Error("nothing says that segments came out of order")
	}
	if len(play(t, out).Calls) != 2 {
		t.Error("what was written has other calls")
	}
}

// adjacent reports whether one segment with data follows another of the same
// direction.
func adjacent(t *testing.T, a, b frame) bool {
	t.Helper()
	s, err := packet.Parse(a.data[etherHeader:])
	if err != nil {
		return false
	}
	u, err := packet.Parse(b.data[etherHeader:])
	if err != nil {
		return false
	}
	n := len(s.Payload())
	return n > 0 && len(u.Payload()) > 0 && s.Src() == u.Src() && u.Seq() == s.Seq().Add(n)
}

// TestMissing leaves out each packet in turn, as a program does that captures too
// slowly. What is not in that packet is still read.
func TestMissing(t *testing.T) {
	b := capture(t, "several-lan")
	all := frames(t, b)
	whole := messages(play(t, b))
	for i := range all {
		rest := slices.Delete(slices.Clone(all), i, i+1)
		in := pcap(t, linkEthernet, rest)
		r := play(t, in, lab...)
		lost := 0
		for _, m := range whole {
			if !slices.ContainsFunc(messages(play(t, in)), func(s string) bool { return s == m }) {
				lost++
			}
		}
		// A packet has two messages at most here; a call whose Start-Reply was not
		// seen is not believed (see alg).
		if lost > 3 {
			t.Errorf("without packet %d, %d messages are lost", i+1, lost)
		}
		if len(r.Calls) < 5 {
			t.Errorf("without packet %d there are %d calls", i+1, len(r.Calls))
		}
	}
}

// TestBeginsInTheMiddle has captures that begin after the connection did.
func TestBeginsInTheMiddle(t *testing.T) {
	all := frames(t, capture(t, "hangup-lan"))
	for skip := range 9 { // the ninth answers the first call
		r := play(t, pcap(t, linkEthernet, all[skip:]), lab...)
		if len(r.Calls) != 2 {
			t.Errorf("without the first %d packets there are %d calls", skip, len(r.Calls))
		}
	}
}

// TestSamePortsAgain plays a capture twice in a row: the same connections, opened
// anew.
func TestSamePortsAgain(t *testing.T) {
	all := frames(t, capture(t, "hangup-lan"))
	again := slices.Clone(all)
	for i := range again {
		again[i].Timestamp = again[i].Timestamp.Add(all[len(all)-1].Timestamp.Sub(all[0].Timestamp))
	}
	r := play(t, pcap(t, linkEthernet, append(all, again...)), lab...)
	if len(r.Calls) != 4 || r.Totals.Behind != 0 {
		t.Fatalf("%d calls, %d segments not read", len(r.Calls), r.Totals.Behind)
	}
	for _, c := range r.Calls {
		if c.Ended == nil || c.Ended.Cause != "cleared" || c.ToPAC.Packets != 1 || c.ToPNS.Packets != 2 {
			t.Errorf("call %+v", c)
		}
	}
	if len(r.Strays) != 0 {
		t.Errorf("GRE of no call: %+v", r.Strays)
	}
}

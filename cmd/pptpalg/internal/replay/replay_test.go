package replay

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unique"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// testdata has the captures; its README.md says how each was made.
const testdata = "../../../../testdata"

// lab is the NAT of the network that the captures were made in.
var lab = []NAT{{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParseAddr("203.0.113.1")}}

var equal = cmp.Options{
	cmp.AllowUnexported(Event{}, Events{}, id{}),
	cmp.Comparer(func(a, b unique.Handle[string]) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func captures(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testdata, "*.pcap"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	return files
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func capture(t testing.TB, name string) []byte {
	t.Helper()
	return read(t, filepath.Join(testdata, name+".pcap"))
}

// play replays a capture that has no errors.
func play(t testing.TB, b []byte, nat ...NAT) *Report {
	t.Helper()
	r, err := Run(bytes.NewReader(b), nil, Config{NAT: nat})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// written replays a capture and returns what it writes as well.
func written(t testing.TB, b []byte, nat ...NAT) (*Report, []byte) {
	t.Helper()
	var out bytes.Buffer
	r, err := Run(bytes.NewReader(b), &out, Config{NAT: nat})
	if err != nil {
		t.Fatal(err)
	}
	return r, out.Bytes()
}

// listed returns the events.
func listed(r *Report) []*Event { return slices.Collect(r.Events.All()) }

// begins reports whether a list of events begins with another.
func begins(all, first []*Event) bool {
	return len(first) <= len(all) && slices.EqualFunc(all[:len(first)], first, func(a, b *Event) bool { return cmp.Equal(a, b, equal) })
}

func text(t testing.TB, r *Report) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join(testdata, "golden", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestGoldens(t *testing.T) {
	for _, file := range captures(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".pcap")
		t.Run(name, func(t *testing.T) {
			golden(t, name+".txt", text(t, play(t, read(t, file))))
			golden(t, name+".nat.txt", text(t, play(t, read(t, file), lab...)))
		})
	}
}

func TestGoldenJSON(t *testing.T) {
	var b bytes.Buffer
	if err := play(t, capture(t, "several-lan"), lab...).JSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "several-lan.nat.json", b.Bytes())
}

// frames reads a pcap file with this package's own reader.
func frames(t testing.TB, b []byte) []frame {
	t.Helper()
	f, err := open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var all []frame
	for {
		p, err := f.next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		p.data = slices.Clone(p.data)
		all = append(all, p)
	}
}

// TestWrittenIsWhatPassedOutside compares the file that is written from inside with
// what was captured outside of the real program's work.
func TestWrittenIsWhatPassedOutside(t *testing.T) {
	for _, name := range []string{"hangup", "killed", "bytes", "several"} {
		t.Run(name, func(t *testing.T) {
			_, b := written(t, capture(t, name+"-lan"), lab...)
			got, want := contents(t, b), contents(t, capture(t, name+"-wan"))
			if name == "several" { // the firewall kept from the inside what belongs to no call
				delete(want, "GRE 203.0.113.10 > 203.0.113.1 call 4711")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-captured outside +written):\n%s", diff)
			}
		})
	}
}

// contents are the bytes of each direction of TCP, without what was sent twice, and
// the GRE payloads to each Call ID.
func contents(t *testing.T, b []byte) map[string]string {
	t.Helper()
	all := make(map[string]string)
	next := make(map[string]packet.Seq)
	for _, p := range frames(t, b) {
		ip, err := packet.ParseIPv4(p.data[etherHeader:])
		if id, err := packet.QuotedCallID(ip.Payload()); ip.Protocol() == packet.ProtocolGRE && err == nil {
			all[fmt.Sprintf("GRE %v > %v call %v", ip.Src(), ip.Dst(), id)] += fmt.Sprintf("%x\n", ip.Payload())
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := packet.Parse(p.data[etherHeader:])
		if err != nil {
			t.Fatal(err)
		}
		k := fmt.Sprintf("TCP %v > %v", s.Src(), s.Dst())
		if n, known := next[k]; len(s.Payload()) > 0 && (!known || !s.Seq().Before(n)) {
			all[k] += fmt.Sprintf("%x", s.Payload())
			next[k] = s.Seq().Add(len(s.Payload()))
		}
	}
	return all
}

// TestWrittenShowsPublicIDs replays what was written, from outside.
func TestWrittenShowsPublicIDs(t *testing.T) {
	for _, name := range []string{"hangup-lan", "killed-lan", "bytes-lan", "several-lan", "cut-lan", "unedited-lan"} {
		t.Run(name, func(t *testing.T) {
			inside, b := written(t, capture(t, name), lab...)
			outside := play(t, b)
			if inside.Totals.Written != inside.Totals.Packets || outside.Totals.Packets != inside.Totals.Packets {
				t.Errorf("%d packets captured, %d written, %d read", inside.Totals.Packets, inside.Totals.Written, outside.Totals.Packets)
			}
			if diff := cmp.Diff(public(inside.Calls), public(outside.Calls), equal); diff != "" {
				t.Errorf("calls (-public inside +seen outside):\n%s", diff)
			}
			before := listed(inside)
			for i, e := range listed(outside) {
				was := before[i]
				if e.kind != was.kind || was.own.public != e.own.seen || was.peer.public != e.peer.seen {
					t.Errorf("%+v became %+v", was, e)
				}
			}
		})
	}
}

// public returns copies of calls as they are outside.
func public(calls []*Call) []Call {
	var all []Call
	for _, c := range calls {
		d := *c
		for _, p := range []*Party{&d.PNS, &d.PAC} {
			p.Address, p.CallID = p.PublicAddress, p.PublicCallID
		}
		d.Control, d.Ended = nil, &End{Cause: c.Ended.Cause, Moment: c.Ended.Moment}
		all = append(all, d)
	}
	return all
}

func TestWrittenChecksums(t *testing.T) {
	for _, file := range captures(t) {
		if strings.Contains(file, "cut") || strings.Contains(file, "any") {
			continue // what was not captured cannot be summed up; cooked ones hold the untranslated side as well
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			r, b := written(t, read(t, file), lab...)
			if strings.Contains(file, "wan") {
				return // nothing was translated, so nothing was touched
			}
			for i, p := range frames(t, b) {
				verify(t, i+1, p.data)
			}
			if r.Totals.Written == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

// verify has gopacket sum up a packet.
func verify(t *testing.T, n int, data []byte) {
	t.Helper()
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
	ip, ok := p.NetworkLayer().(*layers.IPv4)
	if !ok {
		t.Fatalf("packet %d: no IPv4", n)
	}
	transport := []gopacket.SerializableLayer{ip, gopacket.Payload(ip.Payload)}
	if tcp, ok := p.TransportLayer().(*layers.TCP); ok {
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		transport = []gopacket.SerializableLayer{ip, tcp, gopacket.Payload(tcp.Payload)}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, transport...); err != nil {
		t.Fatal(err)
	}
	if want := data[etherHeader : etherHeader+int(ip.Length)]; !bytes.Equal(want, buf.Bytes()) {
		t.Errorf("packet %d: written\n% x, gopacket says\n% x", n, want, buf.Bytes())
	}
}

// TestUntranslatedIsWrittenAsItIs: without a NAT the file that is written is the
// capture.
func TestUntranslatedIsWrittenAsItIs(t *testing.T) {
	for _, file := range captures(t) {
		b := read(t, file)
		_, out := written(t, b)
		was, is := frames(t, b), frames(t, out)
		if len(was) != len(is) {
			t.Errorf("%s: %d packets became %d", file, len(was), len(is))
			continue
		}
		for i := range was {
			if !bytes.Equal(was[i].data, is[i].data) || !was[i].Timestamp.Equal(is[i].Timestamp) || was[i].link != is[i].link {
				t.Errorf("%s: packet %d is another", file, i+1)
			}
		}
	}
}

func TestRFCWords(t *testing.T) {
	for _, typ := range pptp.Types() {
		if l, _ := typ.Layout(); (l.Result != 0) != (typ.Result(pptp.ResultOK) != "") {
			t.Errorf("%v: result code at %d, in words %q", typ, l.Result, typ.Result(pptp.ResultOK))
		}
	}
	code := byte(77)
	if got := (&Result{Code: &code}).String(); got != "77 (not in RFC 2637)" {
		t.Errorf("an unknown result code: %q", got)
	}
}

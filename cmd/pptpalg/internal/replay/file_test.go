package replay

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// etherHeader is the length of Ethernet's header, in bytes.
const etherHeader = 14

// pcap writes packets as a pcap file of a link type.
func pcap(t testing.TB, link linkType, all []frame) []byte {
	t.Helper()
	var b bytes.Buffer
	w := writer{w: &b}
	for _, p := range all {
		p.link = link
		if err := w.write(p); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// pcapng writes packets as a pcapng file, each packet on the interface that its
// link type has.
func pcapng(t testing.TB, all []frame) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkType(all[0].link))
	if err != nil {
		t.Fatal(err)
	}
	interfaces := map[linkType]int{all[0].link: 0}
	for _, p := range all {
		id, ok := interfaces[p.link]
		if !ok {
			if id, err = w.AddInterface(pcapgo.NgInterface{LinkType: layers.LinkType(p.link)}); err != nil {
				t.Fatal(err)
			}
			interfaces[p.link] = id
		}
		p.InterfaceIndex = id
		if err := w.WritePacket(p.CaptureInfo, p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// relinked gives every frame of an Ethernet capture another link header.
func relinked(all []frame, header []byte) []frame {
	var changed []frame
	for _, p := range all {
		p.data = append(bytes.Clone(header), p.data[etherHeader:]...)
		p.Length += len(p.data) - p.CaptureLength
		p.CaptureLength = len(p.data)
		changed = append(changed, p)
	}
	return changed
}

func TestFormats(t *testing.T) {
	original := capture(t, "several-lan")
	all := frames(t, original)
	mixed := append([]frame(nil), all...)
	for i := range mixed {
		if i%2 == 1 {
			mixed[i] = relinked(mixed[i:i+1], nil)[0]
			mixed[i].link = linkRaw
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(original)
	_ = z.Close()
	want := play(t, original, lab...)
	for name, b := range map[string][]byte{
		"nanoseconds":       pcap(t, linkEthernet, all),
		"big-endian":        bigEndian(original),
		"gzip":              packed.Bytes(),
		"pcapng":            pcapng(t, all),
		"pcapng, two links": pcapng(t, mixed),
		"pcapng, twice":     append(pcapng(t, all[:20]), pcapng(t, all[20:])...),
		"stated snap length too small": func() []byte {
			b := bytes.Clone(original)
			binary.LittleEndian.PutUint32(b[16:], 60)
			return b
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, play(t, b, lab...), equal); diff != "" {
				t.Errorf("(-pcap +this):\n%s", diff)
			}
		})
	}
}

// bigEndian turns a little-endian pcap file around.
func bigEndian(b []byte) []byte {
	b = bytes.Clone(b)
	swap := func(b []byte) { binary.BigEndian.PutUint32(b, binary.LittleEndian.Uint32(b)) }
	swap(b)
	binary.BigEndian.PutUint16(b[4:], binary.LittleEndian.Uint16(b[4:]))
	binary.BigEndian.PutUint16(b[6:], binary.LittleEndian.Uint16(b[6:]))
	swap(b[16:])
	swap(b[20:])
	for at := pcapHeader; at < len(b); {
		size := int(binary.LittleEndian.Uint32(b[at+8:]))
		for i := range 4 {
			swap(b[at+4*i:])
		}
		at += 16 + size
	}
	return b
}

// TestTruncated cuts a capture at every byte: what came before is told, and in
// which packet it ends.
func TestTruncated(t *testing.T) {
	all := frames(t, capture(t, "cut-lan"))
	for name, b := range map[string][]byte{"pcap": capture(t, "cut-lan"), "pcapng": pcapng(t, all)} {
		whole := play(t, b)
		clean := 0
		for n := range len(b) {
			r, err := Run(bytes.NewReader(b[:n]), nil, Config{})
			if r == nil || !begins(listed(whole), listed(r)) {
				t.Fatalf("%s, %d bytes: %+v", name, n, r)
			}
			if err == nil {
				clean++
				continue
			}
			want := fmt.Sprintf("packet %d: %v", r.Totals.Packets+1, errShort)
			if n >= pcapHeader && !strings.Contains(err.Error(), want) && r.Totals.Packets > 0 {
				t.Errorf("%s, %d bytes: %v, want %q", name, n, err, want)
			}
		}
		if clean > len(all)+2 { // between packets, and before the first one
			t.Errorf("%s: %d cuts were not noticed", name, clean)
		}
	}
}

func TestBrokenFiles(t *testing.T) {
	good := capture(t, "hangup-lan")
	all := frames(t, good)
	second := pcapHeader + 16 + len(all[0].data) // where the second packet's header is
	patch := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	ng := pcapng(t, all)
	section := int(binary.LittleEndian.Uint32(ng[4:]))
	face := int(binary.LittleEndian.Uint32(ng[section+4:]))
	first := section + face
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "file header: " + errShort.Error()},
		{"a header alone, cut", good[:20], "file header: " + errShort.Error()},
		{"text", []byte("this is not a capture at all"), "neither pcap nor pcapng"},
		{"gzip of nothing", []byte{0x1f, 0x8b, 8, 0}, "unpack"},
		{"unsupported link type", patch(good, 20, 127), "packet 1: link type unknown(127) cannot be read"},
		{"a link type whose low byte is Ethernet's", patch(good, 20, 257), "packet 1: link type unknown(257) cannot be read"},
		{"captured more than there was", patch(good, second+12, 5), "packet 2: capture length exceeds original"},
		{"a packet of 4 GiB", patch(patch(good, second+8, 0xffffffff), second+12, 0xffffffff), "packet 2: "},
		{"pcapng, block length 0", patch(ng, first+4, 0), "packet 1: a block cannot have 0 bytes"},
		{"pcapng, block of 4 GiB", patch(ng, first+4, 0xfffffffc), "packet 1: a block cannot have 4294967292 bytes"},
		{"pcapng, lengths differ", patch(ng, section-4, 9), "ends with length 9"},
		{"pcapng, packet larger than its block", patch(ng, first+20, 100000), "packet 1: a packet of 100000 bytes does not fit into a block"},
		{"pcapng, no such interface", patch(ng, first+8, 7), "packet 1: Interface id 7"},
		{"pcapng, no byte order", patch(ng, 8, 0), "byte order is unknown"},
		{"pcapng, clock of 2^-64 s", resolution(ng, section), "broken file"},
		{"pcapng, unsupported link type", patch(ng, section+8, 127), "packet 1: link type unknown(127)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Run(bytes.NewReader(tt.b), io.Discard, Config{NAT: lab})
			if r == nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestMemory: what a file states of itself takes no memory.
func TestMemory(t *testing.T) {
	all := frames(t, capture(t, "hangup-lan"))
	ng := pcapng(t, all)
	section := int(binary.LittleEndian.Uint32(ng[4:]))
	binary.LittleEndian.PutUint32(ng[section+12:], 0xc0000000) // the interface's snap length
	old := bytes.Clone(capture(t, "hangup-lan"))
	binary.LittleEndian.PutUint32(old[16:], 0xc0000000)
	for name, b := range map[string][]byte{"pcap": old, "pcapng": ng} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if n := play(t, b).Totals.Packets; n != len(all) {
			t.Errorf("%s: %d packets", name, n)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
			t.Errorf("%s: took %d bytes of memory", name, took)
		}
	}
}

// resolution gives the first interface a clock that gopacket cannot divide by.
func resolution(ng []byte, section int) []byte {
	b := bytes.Clone(ng)
	at := bytes.Index(b[section:], []byte{9, 0, 1, 0, 9}) + section // if_tsresol, one byte: 9
	b[at+4] = 0x80 | 64
	return b
}

func TestWriteOneLinkType(t *testing.T) {
	all := frames(t, capture(t, "hangup-lan"))
	last := len(all) - 1
	all[last] = relinked(all[last:], nil)[0]
	all[last].link = linkRaw
	_, err := Run(bytes.NewReader(pcapng(t, all)), io.Discard, Config{})
	if want := fmt.Sprintf("packet %d: write: a pcap file has one link type", len(all)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteFails(t *testing.T) {
	for _, b := range [][]byte{capture(t, "hangup-lan"), capture(t, "hangup-lan")[:pcapHeader]} {
		if _, err := Run(bytes.NewReader(b), failing{}, Config{}); err == nil || !strings.Contains(err.Error(), "write file header") {
			t.Errorf("error %v", err)
		}
	}
}

func TestNothingToWriteIsStillAFile(t *testing.T) {
	_, out := written(t, capture(t, "hangup-lan")[:pcapHeader])
	if n := len(frames(t, out)); n != 0 || len(out) != pcapHeader {
		t.Errorf("%d packets in %d bytes", n, len(out))
	}
}

// TestCounted has a packet of each kind that is not read.
func TestCounted(t *testing.T) {
	tcp := frames(t, capture(t, "hangup-lan"))[3]
	edit := func(f func(b []byte)) frame {
		p := tcp
		p.data = bytes.Clone(p.data)
		f(p.data[etherHeader:])
		return p
	}
	cut := func(n int) frame {
		p := tcp
		p.data, p.CaptureLength = p.data[:n], n
		return p
	}
	ether := func(typ ...byte) frame {
		data := append(make([]byte, 12), typ...)
		return frame{CaptureInfo: gopacket.CaptureInfo{Timestamp: tcp.Timestamp, CaptureLength: len(data), Length: len(data)}, data: data}
	}
	all := []frame{
		ether(8, 6),                                  // ARP
		ether(8, 0),                                  // IPv4 without a header
		edit(func(b []byte) { b[9] = 17 }),           // UDP
		edit(func(b []byte) { b[6] = 0x20 }),         // a fragment
		edit(func(b []byte) { b[32] = 0x10 }),        // TCP header of 4 bytes
		edit(func(b []byte) { b[2] = 0xff }),         // longer than its frame, which was not cut
		edit(func(b []byte) { b[22], b[20] = 9, 9 }), // of other ports
		edit(func(b []byte) { b[9] = 47 }),           // GRE, not PPTP's
		cut(etherHeader + 30),                        // in TCP's header
		cut(etherHeader + 70),
	}
	got := play(t, pcap(t, linkEthernet, all)).Totals
	want := Totals{Packets: 10, Control: 1, Fragments: 1, Malformed: 3, Other: 5, Cut: 1,
		Kinds: map[string]int{"ARP": 1, "GRE": 1, "TCP of other ports": 1, "UDP": 1, "cut within their headers": 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

// FuzzRun: whatever the file, replay ends, names the packet of an error, and what
// it writes can be read.
func FuzzRun(f *testing.F) {
	// Small ones: the fuzzer spends its time on making inputs smaller otherwise.
	for _, name := range []string{"cut-lan", "hangup-lan", "killed-lan", "unedited-lan"} {
		f.Add(capture(f, name))
	}
	all := frames(f, capture(f, "cut-lan"))
	f.Add(pcapng(f, all))
	f.Add(pcap(f, linkRaw, relinked(all, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		r, err := Run(bytes.NewReader(b), &out, Config{NAT: lab})
		if err != nil && r.Totals.Packets > 0 && !strings.HasPrefix(err.Error(), "packet ") {
			t.Errorf("error %v after %d packets", err, r.Totals.Packets)
		}
		text(t, r)
		if err != nil {
			return
		}
		if n := len(frames(t, out.Bytes())); n != r.Totals.Written {
			t.Errorf("%d packets were written, %d are there", r.Totals.Written, n)
		}
	})
}

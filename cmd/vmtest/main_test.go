package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
)

// What the console says is shown, but for the result, which the exit code tells.
func TestFollow(t *testing.T) {
	rows := []struct{ name, console, shown, err string }{
		{"passed", "guest: one\r\nVM-TEST: PASS\r\n", "guest: one\n", ""},
		{"failed", "VM-TEST: FAIL wait for it\r\nthe rest\r\n", "the rest\n", "wait for it"},
		{"panic", "[1.0] Kernel panic\r\n", "[1.0] Kernel panic\n", "the virtual machine ended without a result"},
		{"nothing", "", "", "the virtual machine ended without a result"},
		{"result inside a line", "x VM-TEST: PASS\n", "x VM-TEST: PASS\n", "the virtual machine ended without a result"},
	}
	for _, row := range rows {
		var shown strings.Builder
		got := ""
		if err := follow(strings.NewReader(row.console), &shown); err != nil {
			got = err.Error()
		}
		if got != row.err || shown.String() != row.shown {
			t.Errorf("%s: error %q, shown %q", row.name, got, shown.String())
		}
	}
}

func TestDependsOnKernel(t *testing.T) {
	const text = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSize: 1\n"
	want := []string{"6.1.0-56-amd64", "6.1.192-2"}
	if got := dependsOnKernel.FindStringSubmatch(text); got == nil || !cmp.Equal(got[1:], want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A SYN+ACK's entry, with the port translated, and what is none.
func TestReadAttached(t *testing.T) {
	const nested = netlink.Nested
	tuple := func(typ uint16, src, dst string, srcPort, dstPort uint16) netlink.Attribute {
		ip := []netlink.Attribute{
			{Type: 1, Data: netip.MustParseAddr(src).AsSlice()},
			{Type: 2, Data: netip.MustParseAddr(dst).AsSlice()},
		}
		proto := []netlink.Attribute{
			{Type: 1, Data: []byte{6}},
			{Type: 2, Data: binary.BigEndian.AppendUint16(nil, srcPort)},
			{Type: 3, Data: binary.BigEndian.AppendUint16(nil, dstPort)},
		}
		return netlink.Attribute{Type: typ | nested, Data: marshal(t, netlink.Attribute{Type: 1 | nested, Data: marshal(t, ip...)}, netlink.Attribute{Type: 2 | nested, Data: marshal(t, proto...)})}
	}
	ct := marshal(t, tuple(1, "10.77.0.11", "203.0.113.11", 4242, 1723), tuple(2, "203.0.113.11", "203.0.113.1", 1723, 59570), netlink.Attribute{Type: 22, Data: label})
	got := readAttached(ct)
	if got.client.String() != "10.77.0.11" || got.public.String() != "203.0.113.1:59570" || !bytes.Equal(got.label, label) {
		t.Errorf("got %v", got)
	}
	for _, none := range [][]byte{nil, {1}, ct[:4], ct[:60]} {
		if got := readAttached(none); got.public.IsValid() || got.label != nil {
			t.Errorf("%x: got %v", none, got)
		}
	}
}

func marshal(t *testing.T, attrs ...netlink.Attribute) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Two calls, with one client's Call ID translated, and what is no GRE.
func TestReadEntries(t *testing.T) {
	const text = `gre      47 863943 src=10.77.0.10 dst=203.0.113.10 srckey=0x0 dstkey=0x80 packets=5 bytes=2744 src=203.0.113.10 dst=203.0.113.1 srckey=0x80 dstkey=0x0 packets=0 bytes=0 [ASSURED] mark=0 use=1
gre      47 863942 src=203.0.113.10 dst=203.0.113.1 srckey=0x0 dstkey=0x7 packets=4 bytes=1495 src=10.77.0.11 dst=203.0.113.10 srckey=0x7 dstkey=0x0 packets=0 bytes=0 [ASSURED] mark=0 use=1
gre      47 863942 src=10.77.0.11 dst=203.0.113.10 srckey=0x0 dstkey=0x0 packets=40 bytes=1489 src=203.0.113.10 dst=203.0.113.1 srckey=0x0 dstkey=0x0 zone-reply=65003 packets=0 bytes=0 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=10.77.0.10 dst=203.0.113.10 sport=44908 dport=1723 packets=9 bytes=900 src=203.0.113.10 dst=203.0.113.1 sport=1723 dport=44908 packets=9 bytes=900 [ASSURED] mark=0 use=1
`
	if got, err := readEntries(text); err != nil || got != [2]int{45, 4} {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestJudgeStatus(t *testing.T) {
	const both = `{"interfaces": [{"name": "lan", "attached": "tc", "why": "x"}, {"name": "wan", "attached": "tc"}], `
	rows := []struct{ name, status, err string }{
		{"carries", both + `"flows_in_force": 4, "packets": {"tc": 1, "xdp": 0}}`, ""},
		{"a flow is not in force", both + `"flows_in_force": 3, "packets": {"tc": 1}}`, "3 flows are in force and 1 packets were forwarded by tc, want 4 flows"},
		{"nothing was forwarded", both + `"flows_in_force": 4, "packets": {"xdp": 1}}`, "4 flows are in force and 0 packets were forwarded by tc, want 4 flows"},
		{"not attached", `{"interfaces": [{"name": "lan", "attached": "tc"}, {"name": "wan", "attached": "none"}]}`, "wan is not attached by tc"},
		{"nothing", ``, "read: unexpected end of JSON input"},
	}
	for _, row := range rows {
		got := ""
		if err := judgeStatus(row.status, "tc", 4); err != nil {
			got = err.Error()
		}
		if got != row.err {
			t.Errorf("%s: got %q", row.name, got)
		}
	}
}

// The expression is the kernel's to hand on, which takes quotes off and knows no escapes.
func TestArguments(t *testing.T) {
	rows := []struct{ scenes, want string }{
		{"", "mitigations=off"},
		{`^fast-(tc|xdp)\b`, `mitigations=off VMTEST_SCENES="^fast-(tc|xdp)\b"`},
	}
	for _, row := range rows {
		args := machine{scenes: row.scenes}.arguments("x")
		line := args[slices.Index(args, "-append")+1]
		if !strings.HasSuffix(line, row.want) {
			t.Errorf("%q: got %q", row.scenes, line)
		}
	}
}

// Names tell scenes apart.
func TestSceneNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range allScenes() {
		if seen[s.name] {
			t.Errorf("%s is there twice", s.name)
		}
		seen[s.name] = true
	}
}

func TestIsEncrypted(t *testing.T) {
	rows := []struct {
		name   string
		packet string
		want   bool
	}{
		{"MPPE", "\xff\x03\x00\xfd\x90\x00", true},
		{"MPPE, compressed protocol", "\xff\x03\xfd\x90\x00", true},
		{"MPPE, all compressed", "\xfd\x90\x00", true},
		{"IP", "\xff\x03\x00\x21\x45", false},
		{"CCP", "\xff\x03\x80\xfd\x01", false},
		{"LCP", "\xff\x03\xc0\x21\x09", false},
		{"nothing", "", false},
	}
	for _, row := range rows {
		if got := isEncrypted([]byte(row.packet)); got != row.want {
			t.Errorf("%s: got %v", row.name, got)
		}
	}
}

// The fields of a header, eight digits each, are inode, mode, owner, group, links, time,
// size, four numbers of devices, length of the name with its zero, and checksum.
func TestArchive(t *testing.T) {
	const none = "00000000"
	const device = none + none + none + none
	want := "070701" + "00000001" + "000041ed" + none + none + "00000001" + none + none + device + "00000004" + none + "dir\x00" + "\x00\x00" +
		"070701" + "00000002" + "000081ed" + none + none + "00000001" + none + "00000005" + device + "00000008" + none + "dir/odd\x00" + "\x00\x00" +
		"12345" + "\x00\x00\x00" +
		"070701" + "00000003" + none + none + none + "00000001" + none + none + device + "0000000b" + none + "TRAILER!!!\x00" + "\x00\x00\x00"
	var b bytes.Buffer
	a := &archive{w: &b}
	a.add("dir", modeDir, nil)
	a.add("dir/odd", modeFile, []byte("12345"))
	if err := a.finish(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

type brokenDisk struct{}

func (brokenDisk) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestArchiveFails(t *testing.T) {
	err := writeInitramfs(brokenDisk{}, "/nonexistent", nil)
	if err == nil || err.Error() != "write initramfs: no space" {
		t.Errorf("got %v", err)
	}
}

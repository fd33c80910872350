package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/trial"
)

// tenants are two VRFs, and odd is one whose name iptables takes for those of many devices.
var (
	tenants = []VRF{{"tenant", 5}, {"blue.2", 9}}
	odd     = VRF{"eth+", 77}
)

func TestVRFTexts(t *testing.T) {
	trial.Golden(t, "print-vrf.rules", Text(dataPath, append(tenants, odd)...))
	trial.Golden(t, "reload-vrf.rules", LoadText(withVRFs(read(t, "loaded.list"), Chain, tenants), onePort, odd))
}

// withVRFs returns a listing with rules about VRFs where they belong.
func withVRFs(list, chain string, vrfs []VRF) string {
	lines := ""
	for _, line := range returning(chain, vrfs) {
		lines += line + "\n"
	}
	before, rest, _ := strings.Cut(list, "-A "+chain+" -p tcp")
	if chain == DataChain {
		before, rest, _ = strings.Cut(list, "-A "+chain+" -m mark !")
		return before + lines + "-A " + chain + " -m mark !" + rest
	}
	return before + lines + "-A " + chain + " -p tcp" + rest
}

func TestVRFText(t *testing.T) {
	control, data := read(t, "loaded.list"), read(t, "data-raw.list")
	const number = `-m bpf --bytecode "4,32 0 0 4294963208,21 0 1 77,6 0 0 1,6 0 0 0"`
	rows := []struct {
		name, chain, current string
		vrfs                 []VRF
		want                 []string
	}{
		{"none", Chain, control, nil, nil},
		{"comes", Chain, control, tenants, []string{"-I PPTPALG 2 -i tenant -j RETURN", "-I PPTPALG 3 -i blue.2 -j RETURN"}},
		{"there", Chain, withVRFs(control, Chain, tenants), tenants, nil},
		{"there, in another order", Chain, withVRFs(control, Chain, tenants), []VRF{tenants[1], tenants[0]}, nil},
		{"twice", Chain, withVRFs(control, Chain, append(tenants, tenants[0])), tenants, []string{
			"-D PPTPALG -i tenant -j RETURN", "-D PPTPALG -i blue.2 -j RETURN", "-D PPTPALG -i tenant -j RETURN",
			"-I PPTPALG 2 -i tenant -j RETURN", "-I PPTPALG 3 -i blue.2 -j RETURN"}},
		{"goes", Chain, withVRFs(control, Chain, tenants), tenants[1:], []string{
			"-D PPTPALG -i tenant -j RETURN", "-D PPTPALG -i blue.2 -j RETURN", "-I PPTPALG 2 -i blue.2 -j RETURN"}},
		{"renamed", Chain, withVRFs(control, Chain, tenants[:1]), []VRF{{"red", 5}}, []string{
			"-D PPTPALG -i tenant -j RETURN", "-I PPTPALG 2 -i red -j RETURN"}},
		{"the last goes", Chain, withVRFs(control, Chain, tenants[:1]), nil, []string{"-D PPTPALG -i tenant -j RETURN"}},
		{"odd name comes", Chain, control, []VRF{odd}, []string{"-I PPTPALG 2 " + number + " -j RETURN"}},
		{"odd name there", Chain, withVRFs(control, Chain, []VRF{odd}), []VRF{odd}, nil},
		{"odd name goes", Chain, withVRFs(control, Chain, []VRF{odd}), nil, []string{"-D PPTPALG " + number + " -j RETURN"}},
		{"GRE", DataChain, data, tenants[:1], []string{"-I PPTPALG-GRE 4 -i tenant -j RETURN"}},
		{"GRE, there", DataChain, withVRFs(data, DataChain, tenants), tenants, nil},
		{"GRE, goes", DataChain, withVRFs(data, DataChain, tenants[:1]), nil, []string{"-D PPTPALG-GRE -i tenant -j RETURN"}},
		{"chain emptied", Chain, "-N PPTPALG\n", tenants, nil},
		{"no chain", Chain, read(t, "empty.list"), tenants, nil},
	}
	for _, row := range rows {
		want := ""
		if row.want != nil {
			want = transaction("any", row.want)
		}
		if diff := cmp.Diff(want, vrfText("any", row.chain, row.current, row.vrfs)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}

// A VRF that comes or goes is no rule that is missing; another rule that returns is one too many.
func TestPresentWithVRFs(t *testing.T) {
	loaded := read(t, "loaded.list")
	rows := []struct {
		name, more string
		want       bool
	}{
		{"a VRF", "-A PPTPALG -i tenant -j RETURN\n", true},
		{"VRFs", "-A PPTPALG -i tenant -j RETURN\n-A PPTPALG " + odd.match() + " -j RETURN\n", true},
		{"lo twice", fromLoopback + "\n", false},
		{"everything", "-A PPTPALG -j RETURN\n", false},
		{"all but one", "-A PPTPALG ! -i tenant -j RETURN\n", false},
		{"other program", `-A PPTPALG -m bpf --bytecode "1,6 0 0 1" -j RETURN` + "\n", false},
		{"accepted", "-A PPTPALG -i tenant -j ACCEPT\n", false},
	}
	for _, row := range rows {
		if got := wanted(onePort)[0].in(loaded + row.more); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// link returns what the kernel says of a device: struct ifinfomsg, and attributes.
func link(typ netlink.HeaderType, index uint32, name, kind string) netlink.Message {
	header := make([]byte, linkHeader)
	binary.NativeEndian.PutUint16(header[2:], unix.ARPHRD_ETHER)
	binary.NativeEndian.PutUint32(header[indexAt:], index)
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, name)
	ae.Uint32(unix.IFLA_MTU, 65575)
	if kind != "" {
		ae.Nested(unix.IFLA_LINKINFO, func(nae *netlink.AttributeEncoder) error {
			nae.String(unix.IFLA_INFO_KIND, kind)
			nae.Nested(unix.IFLA_INFO_DATA, func(data *netlink.AttributeEncoder) error {
				data.Uint32(1, 100) // IFLA_VRF_TABLE
				return nil
			})
			return nil
		})
	}
	attrs, err := ae.Encode()
	if err != nil {
		panic(err)
	}
	return netlink.Message{Header: netlink.Header{Type: typ}, Data: append(header, attrs...)}
}

func TestAsVRF(t *testing.T) {
	vrf := link(unix.RTM_NEWLINK, 5, "tenant", "vrf")
	cut := vrf
	cut.Data = vrf.Data[:linkHeader+3]
	rows := []struct {
		name string
		m    netlink.Message
		want VRF
	}{
		{"VRF", vrf, VRF{"tenant", 5}},
		{"bridge", link(unix.RTM_NEWLINK, 5, "lan", "bridge"), VRF{}},
		{"card", link(unix.RTM_NEWLINK, 5, "eth0", ""), VRF{}},
		{"no name", link(unix.RTM_NEWLINK, 5, "", "vrf"), VRF{}},
		{"gone", link(unix.RTM_DELLINK, 5, "tenant", "vrf"), VRF{}},
		{"cut off", cut, VRF{}},
		{"nothing", netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWLINK}}, VRF{}},
	}
	for _, row := range rows {
		got, ok := asVRF(row.m)
		if ok != (row.want != VRF{}) || ok && got != row.want {
			t.Errorf("%s: %v, %v, want %v", row.name, got, ok, row.want)
		}
	}
}

// fakeLinks is a kernel that has devices and tells when they change.
type fakeLinks struct {
	lists  chan []netlink.Message // what it lists; the last one stays
	events chan struct{}          // something changes
	last   []netlink.Message
	asked  int
}

func newFakeLinks(lists ...[]netlink.Message) *fakeLinks {
	l := &fakeLinks{lists: make(chan []netlink.Message, 9), events: make(chan struct{})}
	for _, list := range lists {
		l.lists <- list
	}
	return l
}

func (l *fakeLinks) dial() (*netlink.Conn, error) {
	return nltest.Dial(func(req []netlink.Message) ([]netlink.Message, error) {
		l.asked++
		select {
		case l.last = <-l.lists:
		default:
		}
		if len(l.last) == 0 {
			return nil, io.EOF
		}
		return nltest.Multipart(append(answering(l.last, req[0]), netlink.Message{Header: netlink.Header{Sequence: req[0].Header.Sequence, PID: req[0].Header.PID}}))
	}), nil
}

// answering returns messages that answer a request.
func answering(list []netlink.Message, to netlink.Message) []netlink.Message {
	var all []netlink.Message
	for _, m := range list {
		m.Header.Sequence, m.Header.PID = to.Header.Sequence, to.Header.PID
		all = append(all, m)
	}
	return all
}

func (l *fakeLinks) hear(ctx context.Context, changed func()) error {
	changed()
	for {
		select {
		case <-l.events:
			changed()
		case <-ctx.Done():
			return nil
		}
	}
}

func TestVRFsAreListed(t *testing.T) {
	tenant := link(unix.RTM_NEWLINK, 5, "tenant", "vrf")
	broken := tenant
	broken.Header.Flags = netlink.DumpInterrupted
	rows := []struct {
		name  string
		lists [][]netlink.Message
		want  []VRF
		asked int
	}{
		{"none", nil, nil, 1},
		{"one among others", [][]netlink.Message{{link(unix.RTM_NEWLINK, 1, "lo", ""), tenant}}, tenants[:1], 1},
		{"changed meanwhile", [][]netlink.Message{{broken}, {tenant}}, tenants[:1], 2},
	}
	for _, row := range rows {
		l := newFakeLinks(row.lists...)
		got, err := (&Firewall{dial: l.dial}).vrfs()
		if diff := cmp.Diff(row.want, got); err != nil || diff != "" || l.asked != row.asked {
			t.Errorf("%s: asked %d times, %v (-want +got):\n%s", row.name, l.asked, err, diff)
		}
	}
	if _, err := (&Firewall{dial: newFakeLinks([]netlink.Message{broken}).dial}).vrfs(); err == nil {
		t.Error("a list that never holds still is believed")
	}
}

// TestKernelWithoutVRFs asks a real kernel, which may have none.
func TestKernelWithoutVRFs(t *testing.T) {
	trial.NeedRoot(t)
	ns := newNamespace(t)
	ns.IP(t, "link add some type bridge")
	ns.Do(t, func() error {
		found, err := VRFs()
		if len(found) > 0 {
			t.Errorf("found %v", found)
		}
		return err
	})
}

// TestKernelFilter: a socket hears of devices of one kind only.
func TestKernelFilter(t *testing.T) {
	trial.NeedRoot(t)
	ns := newNamespace(t)
	var c *netlink.Conn
	ns.Do(t, func() (err error) {
		if c, err = new(Firewall).dialLinks(); err == nil {
			err = listenToLinks(c, "bridge")
		}
		return err
	})
	defer c.Close()
	ns.changeLinks(t)
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	for gone := false; !gone; {
		msgs, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			name := linkName(t, m)
			if name != "one" && name != "other" {
				t.Errorf("heard of %q", name)
			}
			gone = gone || name == "other" && m.Header.Type == unix.RTM_DELLINK
		}
	}
}

// changeLinks has devices of two kinds come and go, last a bridge.
func (ns namespace) changeLinks(t *testing.T) {
	t.Helper()
	for _, line := range []string{"link add v1 type veth peer name v2", "link set v1 up", "link add one type bridge",
		"link del v1", "link set one name other", "link del other"} {
		ns.IP(t, line)
	}
}

// TestKernelWatchLinks: changes are told until it is stopped.
func TestKernelWatchLinks(t *testing.T) {
	trial.NeedRoot(t)
	ns := newNamespace(t)
	netNS, err := os.Open("/run/netns/" + string(ns.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer netNS.Close()
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan struct{}, 99), make(chan error, 1)
	go func() {
		done <- (&Firewall{NetNS: int(netNS.Fd())}).watchLinks(ctx, "bridge", func() { heard <- struct{}{} })
	}()
	<-heard // it listens
	ns.changeLinks(t)
	<-heard
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func linkName(t *testing.T, m netlink.Message) (name string) {
	t.Helper()
	ad, err := netlink.NewAttributeDecoder(m.Data[linkHeader:])
	if err != nil {
		t.Fatal(err)
	}
	for ad.Next() {
		if ad.Type() == unix.IFLA_IFNAME {
			name = ad.String()
		}
	}
	return name
}

// TestKernelKeepsVRFs: rules about VRFs come, are renamed and go with them, in both tables, and
// nothing is missing meanwhile. What another program loads without them gets them.
func TestKernelKeepsVRFs(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		netNS, err := os.Open("/run/netns/" + string(ns.Namespace))
		if err != nil {
			t.Fatal(err)
		}
		defer netNS.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l := newFakeLinks([]netlink.Message{link(unix.RTM_NEWLINK, 5, "tenant", "vrf")})
		f.NetNS, f.dial, f.hear = int(netNS.Fd()), l.dial, l.hear
		mustLoad(t, f, dataPath)
		ns.wantVRFs(t, command, tenants[0])
		done := make(chan error, 1)
		go func() { done <- f.Watch(ctx, func() {}) }()
		for _, vrfs := range [][]VRF{tenants, {{"red", 5}, tenants[1]}, {odd}, {{"a#'b", 3}, {"-t", 4}, {"!", 5}, {`q"`, 6}}, nil, tenants} {
			var list []netlink.Message
			for _, v := range vrfs {
				list = append(list, link(unix.RTM_NEWLINK, v.Index, v.Name, "vrf"))
			}
			l.lists <- list
			l.events <- struct{}{}
			ns.wantVRFs(t, command, vrfs...)
			checkPresent(t, f, dataPath, true)
		}
		if command == "iptables-nft" { // for iptables-legacy, the namespace of the test is looked at
			mustLoad(t, &Firewall{Command: command, Run: f.Run, dial: newFakeLinks().dial}, dataPath)
			ns.wantVRFs(t, command, tenants...)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}

// wantVRFs waits until each chain that queues packets on their way in has just the rules about
// VRFs, where they belong.
func (ns namespace) wantVRFs(t *testing.T, command string, vrfs ...VRF) {
	t.Helper()
	want := []string{strings.Join(control(dataPath, vrfs...), "\n"), strings.Join(returning(DataChain, vrfs), "\n")}
	var got []string
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var data []string
		for _, r := range parse(ns.Run(t, "", command, "-w", "10", "-t", "raw", "-S")) {
			if r.aboutVRF(DataChain) {
				data = append(data, r.text)
			}
		}
		got = []string{strings.Join(chainIn(ns.list(t, command)), "\n"), strings.Join(data, "\n")}
		if cmp.Equal(want, got) {
			return
		}
	}
	t.Fatalf("rules (-want +got):\n%s", cmp.Diff(want, got))
}

// TestWatchFails: what keeps the rules about VRFs from being kept ends Watch.
func TestWatchFails(t *testing.T) {
	tenant := []netlink.Message{link(unix.RTM_NEWLINK, 5, "tenant", "vrf")}
	refuses := func(_ context.Context, _, _ string, args ...string) (string, error) {
		if slices.Contains(args, "-V") {
			return "iptables v1.8.9 (nf_tables)", nil
		}
		return "", errors.New("refused")
	}
	breaks := map[string]func(*Firewall){
		"no socket":    func(f *Firewall) { f.dial = func() (*netlink.Conn, error) { return nil, unix.EMFILE } },
		"no listening": func(f *Firewall) { f.hear = func(context.Context, func()) error { return unix.EPERM } },
		"iptables":     func(*Firewall) {},
	}
	for name, breakIt := range breaks {
		l := newFakeLinks(tenant)
		f := &Firewall{Run: refuses, dial: l.dial, hear: l.hear}
		breakIt(f)
		if err := f.Watch(t.Context(), func() {}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

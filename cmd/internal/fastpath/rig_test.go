package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/internal/netns"
	"pptpalg/conntrack"
)

// Addresses of the rig.
//
//	client 10.77.0.20 ── eth0 ── lan  gateway  wan ── eth0 ── server 203.0.113.10
//	       10.77.0.21      10.77.0.1           203.0.113.1
var (
	clients = []netip.Addr{netip.MustParseAddr("10.77.0.20"), netip.MustParseAddr("10.77.0.21")}
	server  = netip.MustParseAddr("203.0.113.10")
	public  = netip.MustParseAddr("203.0.113.1")
)

// patient is how long a test waits for what must come: much longer than it takes.
const patient = 20 * time.Second

// rig is a gateway between a client and a server, with two calls that conntrack translates.
type rig struct {
	client, gateway, server *netns.Place
	atClient, atServer      *tap
	lan, wan                net.Interface
	dir                     string
	entries                 *conntrack.Conn
	table                   *Table
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("not root, and PPTPALG_NO_SKIP is set")
	}
	t.Skip("needs root for network namespaces")
}

func place(t *testing.T) *netns.Place {
	t.Helper()
	needRoot(t)
	p, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func do(t *testing.T, p *netns.Place, f func() error) {
	t.Helper()
	if err := p.Do(f); err != nil {
		t.Fatal(err)
	}
}

// run runs a script in a namespace, and returns what it says.
func run(t *testing.T, p *netns.Place, script string) string {
	t.Helper()
	var said []byte
	do(t, p, func() (err error) {
		if said, err = exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, said)
		}
		return nil
	})
	return string(said)
}

// newRig builds a rig without a fast path.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{client: place(t), gateway: place(t), server: place(t)}
	for _, p := range []*netns.Place{r.client, r.gateway, r.server} {
		run(t, p, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; ip link set lo up")
	}
	run(t, r.gateway, fmt.Sprintf(`
		ip link add lan type veth peer name eth0 netns %d
		ip link add wan type veth peer name eth0 netns %d
		ip addr add 10.77.0.1/24 dev lan
		ip addr add 203.0.113.1/24 dev wan
		ip link set lan up
		ip link set wan up
		sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_acct=1
		iptables -w -t nat -A POSTROUTING -o wan -j MASQUERADE`, r.client.Thread, r.server.Thread))
	run(t, r.client, "ip addr add 10.77.0.20/24 dev eth0; ip addr add 10.77.0.21/24 dev eth0; ip link set eth0 up; iptables -w -A INPUT -p gre -j DROP; iptables -w -A INPUT -p udp -j DROP")
	run(t, r.server, "ip addr add 203.0.113.10/24 dev eth0; ip link set eth0 up; iptables -w -A INPUT -p gre -j DROP; iptables -w -A INPUT -p udp -j DROP")
	for _, end := range []struct {
		p    *netns.Place
		name string
		to   *net.Interface
	}{{r.gateway, "lan", &r.lan}, {r.gateway, "wan", &r.wan}} {
		do(t, end.p, func() error {
			i, err := net.InterfaceByName(end.name)
			if err == nil {
				*end.to = *i
			}
			return err
		})
	}
	r.atClient, r.atServer = newTap(t, r.client), newTap(t, r.server)
	for _, a := range clients {
		run(t, r.gateway, fmt.Sprintf("ip neigh replace %v lladdr %v nud permanent dev lan", a, r.atClient.mac))
	}
	run(t, r.gateway, fmt.Sprintf("ip neigh replace %v lladdr %v nud permanent dev wan", server, r.atServer.mac))
	run(t, r.client, fmt.Sprintf("ip neigh replace 10.77.0.1 lladdr %v nud permanent dev eth0", r.lan.HardwareAddr))
	run(t, r.server, fmt.Sprintf("ip neigh replace %v lladdr %v nud permanent dev eth0", public, r.wan.HardwareAddr))
	r.createEntries(t)
	r.dir = bpffs(t)
	return r
}

// bpffs returns a folder in which Load mounts, and which the test leaves as it was.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func (r *rig) createEntries(t *testing.T) {
	t.Helper()
	do(t, r.gateway, func() (err error) {
		r.entries, err = conntrack.Dial()
		return err
	})
	t.Cleanup(func() { r.entries.Close() })
	var install []calls.Event
	for _, f := range allFlows() {
		install = append(install, calls.Event{Kind: calls.Install, Flow: f})
	}
	if failed := r.entries.Apply(install); len(failed) > 0 {
		t.Fatal(failed)
	}
}

// Where packets travel.
const (
	outward = iota // to the server
	inward
)

var directions = []int{outward, inward}

func name(direction int) string { return [...]string{"outward", "inward"}[direction] }

// flow is a flow of one of the two calls. The first client's Call ID is seen outside as it
// is, the second one's is not.
func flow(direction, call int) calls.Flow {
	own, seen, servers := pptp.CallID(5), [...]pptp.CallID{5, 777}[call], pptp.CallID(900+call)
	if direction == outward {
		return calls.Flow{Src: clients[call], Dst: server, Key: servers, NewSrc: public, NewDst: server, NewKey: servers}
	}
	return calls.Flow{Src: server, Dst: public, Key: seen, NewSrc: server, NewDst: clients[call], NewKey: own}
}

func allFlows() (all []calls.Flow) {
	for _, d := range directions {
		all = append(all, flow(d, 0), flow(d, 1))
	}
	return all
}

// mode is how the programs are attached.
type mode struct {
	name   string
	xdp    bool
	clsact bool
}

var modes = []mode{{"xdp", true, false}, {"tc", false, false}, {"clsact", false, true}}

func eachMode(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { f(t, m) })
	}
}

func (m mode) options(r *rig) Options {
	return Options{Dir: r.dir, Interval: time.Hour, Flows: 1 << 10, Group: -1, clsact: m.clsact}
}

func (r *rig) ports(m mode) []ports.Port {
	var all []ports.Port
	for _, i := range []net.Interface{r.lan, r.wan} {
		all = append(all, ports.Port{Index: i.Index, Name: i.Name, MAC: i.HardwareAddr, XDP: m.xdp, TC: !m.xdp})
	}
	return all
}

func (r *rig) load(t *testing.T, m mode, o Options) Loaded {
	t.Helper()
	var done Loaded
	do(t, r.gateway, func() (err error) {
		done, err = Load(r.ports(m), o)
		return err
	})
	for _, p := range done.Ports {
		if p.XDP != m.xdp || p.TC == m.xdp || p.CLSACT != m.clsact {
			t.Fatalf("attached: %+v", p)
		}
	}
	return done
}

func (r *rig) open(t *testing.T) *Table {
	t.Helper()
	var table *Table
	do(t, r.gateway, func() (err error) {
		table, err = Open(r.dir)
		return err
	})
	t.Cleanup(func() { table.Close() })
	return table
}

// newFastRig is a rig with a fast path whose decisions hold for an interval.
func newFastRig(t *testing.T, m mode, interval time.Duration) *rig {
	t.Helper()
	r := newRig(t)
	o := m.options(r)
	o.Interval = interval
	r.load(t, m, o)
	t.Cleanup(func() { r.gateway.Do(func() error { return Unload(r.dir) }) })
	r.table = r.open(t)
	r.install(t)
	return r
}

func (r *rig) install(t *testing.T) {
	t.Helper()
	for _, f := range allFlows() {
		if err := r.table.Install(f); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) changed(t *testing.T) {
	t.Helper()
	if err := r.table.Changed(); err != nil {
		t.Fatal(err)
	}
}

// here returns how many packets the fast path has forwarded.
func (r *rig) here(t *testing.T, direction, call int) uint64 {
	t.Helper()
	got, there := r.table.Traffic(flow(direction, call))
	if !there {
		t.Fatalf("%s: the flow of call %d is not there", name(direction), call)
	}
	return got.Packets
}

// packet is one of a call's, from an end to the gateway.
func (r *rig) packet(direction, call int) packet {
	f := flow(direction, call)
	p := packet{src: f.Src, dst: f.Dst, key: f.Key, flags: 0x30, version: 1, protocol: 0x880b, ttl: 64, payload: 40}
	if direction == outward {
		p.to, p.from = r.lan.HardwareAddr, r.atClient.mac
	} else {
		p.to, p.from = r.wan.HardwareAddr, r.atServer.mac
	}
	return p
}

func (r *rig) taps(direction int) (from, to *tap) {
	if direction == outward {
		return r.atClient, r.atServer
	}
	return r.atServer, r.atClient
}

// pass sends a packet, and returns what arrives and whether the fast path forwarded it.
func (r *rig) pass(t *testing.T, direction, call int, p packet) (frames [][]byte, fast bool) {
	t.Helper()
	before := r.here(t, direction, call)
	from, _ := r.taps(direction)
	from.send(t, p.frame())
	frames = r.arrived(t, direction)
	return frames, r.here(t, direction, call) != before
}

// arrived returns what has arrived of what was sent. A mark that is sent after it shows the
// end. The first one may overtake frames that XDP has redirected in the same poll.
func (r *rig) arrived(t *testing.T, direction int) (frames [][]byte) {
	t.Helper()
	from, to := r.taps(direction)
	for range 2 {
		from.send(t, r.mark(direction))
		some, ok := to.until(isMark, patient)
		if !ok {
			t.Fatalf("%s: the mark does not arrive", name(direction))
		}
		frames = append(frames, some...)
	}
	return frames
}

// The mark is UDP to a port that nobody uses, and to which no answer comes.
const markPort = 4242

func (r *rig) mark(direction int) []byte {
	p := r.packet(direction, 0)
	if direction == inward {
		// masqueraded addresses are reached by a call alone, so the mark goes the LAN's way
		p.dst = clients[0]
	}
	p.udp = true
	return p.frame()
}

func isMark(frame []byte) bool {
	return len(frame) >= 38 && frame[23] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(frame[36:]) == markPort
}

// learn has a flow forwarded here, for packets of up to a size and with a DSCP.
func (r *rig) learn(t *testing.T, direction, call, payload int, tos byte) {
	t.Helper()
	p := r.packet(direction, call)
	p.payload, p.tos = payload, tos
	for end := time.Now().Add(patient); ; {
		frames, fast := r.pass(t, direction, call, p)
		if len(frames) != 1 {
			t.Fatalf("%s: %d arrived of one packet", name(direction), len(frames))
		}
		if fast {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not learnt: %+v", name(direction), r.table.Stats())
		}
	}
}

// through sends a packet and returns the frame as which it arrives.
func (r *rig) through(t *testing.T, direction int, p packet) []byte {
	t.Helper()
	from, to := r.taps(direction)
	from.send(t, p.frame())
	for end := time.Now().Add(patient); time.Now().Before(end); {
		if f := to.next(); f != nil && f[23] == unix.IPPROTO_GRE {
			return f
		}
	}
	t.Fatalf("%s: nothing arrives", name(direction))
	return nil
}

// tap is a packet socket on a host's eth0.
type tap struct {
	fd  int
	mac net.HardwareAddr
}

func newTap(t *testing.T, p *netns.Place) *tap {
	t.Helper()
	a := &tap{}
	do(t, p, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		a.mac = i.HardwareAddr
		if err := setGRO("eth0", 1); err != nil {
			return err
		}
		a.fd, err = captures(i.Index)
		return err
	})
	t.Cleanup(func() { unix.Close(a.fd) })
	return a
}

func captures(index int) (int, error) {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 10000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
	)
}

func (a *tap) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(a.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// next returns a frame of IPv4 that has come in, or nil if none comes for a short time.
func (a *tap) next() []byte {
	b := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(a.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil
		}
		l, ok := from.(*unix.SockaddrLinklayer)
		if ok && l.Pkttype != unix.PACKET_OUTGOING && n >= 34 && b[12] == 8 && b[13] == 0 {
			return bytes.Clone(b[:n])
		}
	}
}

// until returns the frames that come before one that is meant.
func (a *tap) until(meant func([]byte) bool, within time.Duration) (frames [][]byte, ok bool) {
	for end := time.Now().Add(within); time.Now().Before(end); {
		f := a.next()
		switch {
		case f == nil:
		case meant(f):
			return frames, true
		default:
			frames = append(frames, f)
		}
	}
	return frames, false
}

// packet is what to build.
type packet struct {
	to, from       net.HardwareAddr
	src, dst       netip.Addr
	key            pptp.CallID
	flags, version byte
	protocol       uint16
	tos, ttl       byte
	id, fragment   uint16
	payload        int
	options        bool
	broken         bool // the checksum
	padding        int  // behind the packet, of whatever the sender's memory has
	udp            bool // a mark
}

func (p packet) frame() []byte {
	ip := []byte{0x45, p.tos, 0, 0, 0, 0, 0, 0, p.ttl, unix.IPPROTO_GRE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if p.options {
		ip = append(ip, 1, 1, 1, 0)
		ip[0] = 0x46
	}
	body := p.gre()
	if p.udp {
		ip[9] = unix.IPPROTO_UDP
		body = binary.BigEndian.AppendUint16(nil, markPort)
		body = append(binary.BigEndian.AppendUint16(body, markPort), 0, 8, 0, 0)
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(body)))
	binary.BigEndian.PutUint16(ip[4:], p.id)
	binary.BigEndian.PutUint16(ip[6:], p.fragment)
	src, dst := p.src.As4(), p.dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	sum := checksum(ip)
	if p.broken {
		sum ^= 0x0100
	}
	binary.BigEndian.PutUint16(ip[10:], sum)
	frame := append(append(append([]byte{}, p.to...), p.from...), 8, 0)
	return append(append(append(frame, ip...), body...), bytes.Repeat([]byte{0xee}, p.padding)...)
}

func (p packet) gre() []byte {
	b := []byte{p.flags, p.version}
	b = binary.BigEndian.AppendUint16(b, p.protocol)
	b = binary.BigEndian.AppendUint16(b, uint16(p.payload))
	b = binary.BigEndian.AppendUint16(b, uint16(p.key))
	if p.flags&0x10 != 0 {
		b = append(b, 0, 0, 0, 9)
	}
	if p.version&0x80 != 0 {
		b = append(b, 0, 0, 0, 7)
	}
	for i := range p.payload {
		b = append(b, byte(i*7))
	}
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// setGRO has a veth receive by NAPI, or not: frames that XDP redirects to its peer need that.
func setGRO(name string, on uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := [2]uint32{unix.ETHTOOL_SGRO, on}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("set GRO: %w", errno)
	}
	return nil
}

// icmp returns what kind of ICMP errors there are among frames.
func icmp(frames [][]byte) string {
	var kinds []string
	for _, f := range frames {
		if f[23] == unix.IPPROTO_ICMP {
			kinds = append(kinds, fmt.Sprintf("%d/%d", f[34], f[35]))
		}
	}
	return strings.Join(kinds, " ")
}

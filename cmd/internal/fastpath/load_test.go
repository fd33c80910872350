package fastpath

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// attachedTo returns how many programs and filters an interface of the gateway has.
func (r *rig) attachedTo(t *testing.T, index int, name string) (n int) {
	t.Helper()
	do(t, r.gateway, func() error {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
			if err != nil {
				return err
			}
			n += len(found.Programs)
		}
		for _, at := range []hook{ingress, egress} {
			if filtered(index, at) {
				n++
			}
		}
		return nil
	})
	return n + strings.Count(run(t, r.gateway, "ip -d link show "+name), "prog/xdp")
}

// passes returns another's program, which lets every packet pass.
func passes(t *testing.T, kind ebpf.ProgramType) *ebpf.Program {
	t.Helper()
	verdict := map[ebpf.ProgramType]int32{ebpf.XDP: 2, ebpf.SchedCLS: -1}[kind]
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}, License: "Apache-2.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// attached returns the ports that are attached.
func (r *rig) attached() (all []Attached, err error) {
	err = r.gateway.Do(func() (err error) {
		all, err = r.table.Attached()
		return err
	})
	return all, err
}

// TestUnload leaves nothing behind, and what others have attached as it was.
func TestUnload(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t)
		run(t, r.gateway, "tc qdisc add dev lan clsact")
		pass := passes(t, ebpf.SchedCLS)
		var others link.Link
		do(t, r.gateway, func() (err error) {
			others, err = link.AttachTCX(link.TCXOptions{Program: pass, Interface: r.lan.Index, Attach: ebpf.AttachTCXIngress})
			return err
		})
		defer others.Close()
		r.load(t, m, m.options(r))
		for range 2 { // nothing loaded is no error
			do(t, r.gateway, func() error { return Unload(r.dir) })
		}
		if n := r.attachedTo(t, r.lan.Index, "lan"); n != 1 {
			t.Errorf("lan has %d programs and filters, want another's", n)
		}
		if n := r.attachedTo(t, r.wan.Index, "wan"); n != 0 {
			t.Errorf("wan has %d programs and filters", n)
		}
		if said := run(t, r.gateway, "tc qdisc show dev wan"); strings.Contains(said, "clsact") {
			t.Errorf("wan has %s", said)
		}
		if said := run(t, r.gateway, "tc qdisc show dev lan"); !strings.Contains(said, "clsact") {
			t.Errorf("lan has %s", said)
		}
		if mountedHere(r.dir) {
			t.Errorf("%s is mounted", r.dir)
		}
		do(t, r.gateway, func() error {
			if _, err := Open(r.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("opened: %v", err)
			}
			return nil
		})
	})
}

// TestUnloadPath unmounts what was mounted, however the path was written.
func TestUnloadPath(t *testing.T) {
	for _, row := range []struct{ name, add string }{{"slash", "/"}, {"dots", "/../bpf"}, {"link", "/../link"}, {"link and slash", "/../link/"}, {"blank", "/../a b"}} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			plain := r.dir
			for _, err := range []error{os.Mkdir(plain, 0o755), os.Symlink(plain, filepath.Join(filepath.Dir(plain), "link"))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			r.dir += row.add
			t.Cleanup(func() { unix.Unmount(r.dir, unix.MNT_DETACH) })
			r.load(t, modes[0], modes[0].options(r))
			do(t, r.gateway, func() error { return Unload(r.dir) })
			var st unix.Statfs_t
			if err := unix.Statfs(r.dir, &st); err != nil || uint32(st.Type) == unix.BPF_FS_MAGIC {
				t.Errorf("%s is mounted: %v", r.dir, err)
			}
		})
	}
}

// TestReplaced replaces the programs while packets flow: none is lost, none is altered, and
// flows stay in force.
func TestReplaced(t *testing.T) {
	const times, some = 20, 500
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		for _, d := range directions {
			r.learn(t, d, 0, 1440, 0)
			r.learn(t, d, 1, 1440, 0)
		}
		var loads atomic.Int32
		failed := make(chan error, 1)
		go func() {
			failed <- r.gateway.Do(func() error {
				for range times {
					if _, err := Load(r.ports(m), m.options(r)); err != nil {
						return err
					}
					loads.Add(1)
				}
				return nil
			})
		}()
		before, sent := r.here(t, inward, 0)+r.here(t, inward, 1), 0
		random := rand.New(rand.NewPCG(7, 7))
		for loads.Load() < times {
			if got := r.send(t, inward, r.randomPackets(random, inward, some, 0)); len(got) != some {
				t.Fatalf("%d of %d arrived", len(got), some)
			}
			sent += some
			select {
			case err := <-failed:
				if err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
		if n := r.here(t, inward, 0) + r.here(t, inward, 1) - before; n != uint64(sent) {
			t.Errorf("the fast path forwarded %d of %d", n, sent)
		}
		t.Logf("%d packets, programs replaced %d times", sent, times)
	})
}

// TestAdopted: a later Load and a later daemon go on with the flows that are there.
func TestAdopted(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		for _, d := range directions {
			r.learn(t, d, 0, 100, 0)
			r.learn(t, d, 1, 100, 0)
		}
		r.table.Close()
		if done := r.load(t, m, m.options(r)); !done.Adopted || done.Why != "" {
			t.Fatalf("loaded: %+v", done)
		}
		r.table = r.open(t)
		if s := r.table.Stats(); s.Flows != 4 || s.InForce != 4 {
			t.Fatalf("adopted: %+v", s)
		}
		kept := flow(inward, 1)
		r.table.Retain(func(f calls.Flow) bool { return f == kept })
		for _, f := range allFlows() {
			if _, there := r.table.Traffic(f); there != (f == kept) {
				t.Errorf("%v: there: %v", f, there)
			}
		}
		before := r.here(t, inward, 1)
		if _, fast := r.pass(t, inward, 1, r.packet(inward, 1)); !fast || before == 0 {
			t.Errorf("in force: %v, counted before: %d", fast, before)
		}
	})
}

// TestClosed: whoever still uses a table when it is closed is told, and touches no memory
// that is gone. The fast path goes on.
func TestClosed(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	r.learn(t, outward, 0, 100, 0)
	closed, f := r.table, flow(outward, 0)
	for range 2 {
		if err := closed.Close(); err != nil {
			t.Error(err)
		}
	}
	_, attachedErr := closed.Attached()
	for what, err := range map[string]error{
		"Install": closed.Install(f), "Changed": closed.Changed(), "Refresh": closed.Refresh(r.ports(m)), "Attached": attachedErr,
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	closed.Retain(func(calls.Flow) bool { return false })
	carried, there := closed.Traffic(f)
	if removed := closed.Remove(f); there || carried != (calls.Traffic{}) || removed != carried {
		t.Errorf("it tells of %+v, there: %v, removed: %+v", carried, there, removed)
	}
	if s := closed.Stats(); s.Loaded || s.Flows != 0 || len(s.Packets) == 0 {
		t.Errorf("it tells of %+v", s)
	}
	r.table = r.open(t)
	if _, fast := r.pass(t, outward, 0, r.packet(outward, 0)); !fast {
		t.Error("the fast path has ended with its table")
	}
}

// TestOther replaces pinned maps that do not fit. The daemon moves its flows to the new ones,
// with what they have carried.
func TestOther(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*rig, *Options)
		why   string
	}{
		{"another size", func(_ *rig, o *Options) { o.Flows *= 4 }, "another size"},
		{"another layout", func(r *rig, _ *Options) { r.table.maps.control.Layout++ }, "another release"},
		{"no secret", func(r *rig, _ *Options) { r.table.maps.control.Secret = [2]uint64{} }, "another release"},
		{"a map is not there", func(r *rig, _ *Options) { os.Remove(filepath.Join(r.table.dir, mapsDir, "events")) }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := modes[0]
			r := newFastRig(t, m, time.Hour)
			r.learn(t, outward, 0, 100, 0)
			carried := r.here(t, outward, 0)
			o := m.options(r)
			row.spoil(r, &o)
			if done := r.load(t, m, o); done.Adopted || !strings.Contains(done.Why, row.why) {
				t.Fatalf("loaded: %+v", done)
			}
			r.changed(t)
			if n := r.here(t, outward, 0); n != carried {
				t.Errorf("carried %d, was %d", n, carried)
			}
			if s := r.table.Stats(); !s.Loaded || s.Flows != 4 || s.Places != placesFor(o.Flows) {
				t.Errorf("moved: %+v", s)
			}
			r.learn(t, outward, 0, 100, 0)
		})
	}
}

// TestReplacedMeanwhile replaces all maps while they are being opened: no table has some of
// the old ones and some of the new ones.
func TestReplacedMeanwhile(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	defer func() { loadPinnedMap = ebpf.LoadPinnedMap }()
	for after := range len(mapPins) - 1 {
		loaded := 0
		loadPinnedMap = func(pin string, o *ebpf.LoadPinOptions) (*ebpf.Map, error) {
			if loaded++; loaded == after+2 {
				loadPinnedMap = ebpf.LoadPinnedMap
				o := m.options(r)
				o.Flows <<= after % 2
				o.Flows *= 2
				if _, err := Load(r.ports(m), o); err != nil {
					t.Error(err)
				}
			}
			return ebpf.LoadPinnedMap(pin, o)
		}
		do(t, r.gateway, func() error {
			table, err := Open(r.dir)
			if err == nil {
				t.Errorf("opened, when %d maps had been: %+v", after+1, table.Stats())
				table.Close()
			}
			return nil
		})
	}
}

// TestReloaded unloads and loads beneath a daemon.
func TestReloaded(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		do(t, r.gateway, func() error { return Unload(r.dir) })
		if s := r.table.Stats(); s.Loaded {
			t.Errorf("unloaded: %+v", s)
		}
		if _, err := r.attached(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("unloaded: %v", err)
		}
		if frames, fast := r.pass(t, outward, 0, r.packet(outward, 0)); len(frames) != 1 || fast {
			t.Errorf("unloaded: %d arrived, by the fast path: %v", len(frames), fast)
		}
		r.load(t, m, m.options(r))
		if all, err := r.attached(); err != nil || len(all) != 2 {
			t.Errorf("loaded: %+v, %v", all, err)
		}
		r.learn(t, outward, 0, 100, 0)
	})
}

// TestNamespaces has two network namespaces with one BPF file system.
func TestNamespaces(t *testing.T) {
	m := modes[0]
	a, b := newFastRig(t, m, time.Hour), newRig(t)
	b.dir = a.dir
	b.load(t, m, m.options(b))
	b.table = b.open(t)
	b.install(t)
	for _, r := range []*rig{a, b} {
		r.learn(t, outward, 0, 100, 0)
		r.learn(t, inward, 1, 100, 0)
	}
	do(t, b.gateway, func() error { return Unload(b.dir) })
	if _, fast := a.pass(t, outward, 0, a.packet(outward, 0)); !fast {
		t.Error("unloading one disturbs the other")
	}
	if _, fast := b.pass(t, outward, 0, b.packet(outward, 0)); fast {
		t.Error("unloaded, and forwards")
	}
}

// TestDeserted removes what network namespaces that are gone have left.
func TestDeserted(t *testing.T) {
	m := modes[1]
	dir := bpffs(t)
	var left string
	t.Run("a namespace that goes", func(t *testing.T) {
		r := newRig(t)
		r.dir = dir
		left = r.load(t, m, m.options(r)).Dir
	})
	r := newRig(t)
	r.dir = dir
	defer r.gateway.Do(func() error { return Unload(r.dir) })
	for end := time.Now().Add(patient); ; {
		r.load(t, m, m.options(r))
		if _, err := os.Stat(left); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", left)
		}
	}
}

// TestFails has new maps and a program that the kernel refuses: nothing stays attached, and
// the daemon knows.
func TestFails(t *testing.T) {
	r := newRig(t)
	m := modes[0]
	r.load(t, m, m.options(r))
	r.table = r.open(t)
	l := &loader{o: m.options(r)}
	l.o.Flows *= 2
	do(t, r.gateway, func() error {
		if err := l.open(); err != nil {
			return err
		}
		defer l.close()
		l.spec.Programs[fastpathProgLearn].Instructions = nil
		if _, err := l.load(r.ports(m)); err == nil {
			t.Error("loads without a program")
		}
		return l.undo()
	})
	if n := r.attachedTo(t, r.lan.Index, "lan") + r.attachedTo(t, r.wan.Index, "wan"); n != 0 {
		t.Errorf("%d programs are attached", n)
	}
	if s := r.table.Stats(); s.Loaded {
		t.Errorf("loaded: %+v", s)
	}
}

// TestTaken has another XDP program on one port: both ports forward by tc then.
func TestTaken(t *testing.T) {
	r := newRig(t)
	pass := passes(t, ebpf.XDP)
	var others link.Link
	do(t, r.gateway, func() (err error) {
		others, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: r.lan.Index, Flags: link.XDPDriverMode})
		return err
	})
	defer others.Close()
	m := modes[0]
	var done Loaded
	do(t, r.gateway, func() (err error) {
		done, err = Load(r.ports(m), m.options(r))
		return err
	})
	defer r.gateway.Do(func() error { return Unload(r.dir) })
	lan, wan := done.Ports[0], done.Ports[1]
	if lan.XDP || !lan.TC || !strings.Contains(lan.Why, "another XDP program") || !wan.XDP || !wan.TC {
		t.Errorf("attached: %+v", done.Ports)
	}
	r.table = r.open(t)
	r.install(t)
	for _, d := range directions {
		r.learn(t, d, 0, 100, 0)
	}
	if s := r.table.Stats(); s.Packets["tc"] == 0 || s.Packets["xdp"] != 0 {
		t.Errorf("packets: %v", s.Packets)
	}
	told, err := r.attached()
	if err != nil || len(told) != 2 || told[0].XDP || !told[1].XDP {
		t.Errorf("told: %+v, %v", told, err)
	}
}

// TestRefused has a driver that takes no XDP program: veth with long frames. With OnlyXDP there
// is nothing instead, and the daemon knows that loading again would not help.
func TestRefused(t *testing.T) {
	for _, only := range []bool{false, true} {
		t.Run(fmt.Sprintf("only XDP: %v", only), func(t *testing.T) {
			m := modes[0]
			r := newRig(t)
			run(t, r.client, "ip link set eth0 mtu 9000")
			run(t, r.gateway, "ip link set lan mtu 9000")
			o := m.options(r)
			o.OnlyXDP = only
			do(t, r.gateway, func() error { _, err := Load(r.ports(m), o); return err })
			defer r.gateway.Do(func() error { return Unload(r.dir) })
			r.table = r.open(t)
			told, err := r.attached()
			if err != nil || len(told) != 2 {
				t.Fatalf("attached: %+v, %v", told, err)
			}
			if lan := told[0]; lan.XDP || lan.TC == only || !lan.Refused {
				t.Errorf("lan: %+v", lan)
			}
			if wan := told[1]; !wan.XDP || wan.TC == only || wan.Refused {
				t.Errorf("wan: %+v", wan)
			}
			if n := r.attachedTo(t, r.lan.Index, "lan"); (n == 0) != only {
				t.Errorf("lan has %d programs", n)
			}
			run(t, r.client, "ip link set eth0 mtu 1500")
			run(t, r.gateway, "ip link set lan mtu 1500")
			r.load(t, m, o)
		})
	}
}

// TestPortsChange takes a port away and gives it back. A port that stays keeps its number.
func TestPortsChange(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		all := r.ports(m)
		o := m.options(r)
		do(t, r.gateway, func() error { _, err := Load(all[1:], o); return err })
		if n := r.attachedTo(t, r.lan.Index, "lan"); n != 0 {
			t.Errorf("lan has %d programs", n)
		}
		if err := r.table.Refresh(all); err != nil {
			t.Errorf("refresh without a port: %v", err)
		}
		if frames, fast := r.pass(t, outward, 0, r.packet(outward, 0)); len(frames) != 1 || fast {
			t.Errorf("without a port: %d arrived, by the fast path: %v", len(frames), fast)
		}
		r.load(t, m, o)
		if err := r.table.Refresh(all); err != nil {
			t.Errorf("refresh: %v", err)
		}
		r.learn(t, outward, 0, 100, 0)
		// Another link address: the daemon writes it, and no packet is lost.
		run(t, r.gateway, "ip link set lan address 02:00:00:00:00:55")
		all[0].MAC[0], all[0].MAC[1], all[0].MAC[2], all[0].MAC[3], all[0].MAC[4], all[0].MAC[5] = 2, 0, 0, 0, 0, 0x55
		r.lan.HardwareAddr = all[0].MAC
		if err := r.table.Refresh(all); err != nil {
			t.Errorf("refresh: %v", err)
		}
		r.changed(t)
		r.learn(t, outward, 0, 100, 0)
	})
}

// daemonEnv has this program behave as a daemon without rights.
const daemonEnv = "PPTPALG_TEST_TABLE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonEnv); dir != "" {
		if err := beDaemon(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// beDaemon installs the flows, says so, and waits to be killed.
func beDaemon(dir string) error {
	t, err := Open(dir)
	if err != nil {
		return err
	}
	if t.maps.out == nil {
		return errors.New("what XDP redirects to cannot be read")
	}
	if err := t.maps.out.Put(uint32(0), uint32(1)); err == nil {
		return errors.New("what XDP redirects to can be written")
	}
	t.Retain(func(calls.Flow) bool { return false })
	for _, f := range append(allFlows(), flow(outward, 0)) {
		if err := t.Install(f); err != nil {
			return err
		}
	}
	lost := flow(inward, 0)
	lost.Key++
	if err := t.Install(lost); err != nil {
		return err
	}
	t.Remove(lost)
	if err := t.Changed(); err != nil {
		return err
	}
	if s := t.Stats(); s.Flows != 4 || !s.Loaded {
		return fmt.Errorf("flows: %+v", s)
	}
	fmt.Println("ready")
	select {}
}

// TestUnprivileged has another user with no capability be the daemon, and kills it. The
// fast path goes on, and the next daemon takes it over.
func TestUnprivileged(t *testing.T) {
	const nobody = 65534
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t)
		o := m.options(r)
		o.Group = nobody
		r.load(t, m, o)
		defer r.gateway.Do(func() error { return Unload(r.dir) })
		for dir := filepath.Dir(r.dir); dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		daemon := exec.Command("/proc/self/exe", "-test.run=^$")
		daemon.Env = append(os.Environ(), daemonEnv+"="+r.dir)
		daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
		daemon.Dir = "/"
		out, err := daemon.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		do(t, r.gateway, daemon.Start)
		said, _ := bufio.NewReader(out).ReadString('\n')
		if said != "ready\n" {
			t.Errorf("the daemon says %q", said)
		}
		r.table = r.open(t)
		for _, d := range directions {
			r.learn(t, d, 0, 100, 0)
		}
		if err := daemon.Process.Kill(); err != nil {
			t.Error(err)
		}
		daemon.Wait()
		for _, d := range directions {
			if _, fast := r.pass(t, d, 0, r.packet(d, 0)); !fast {
				t.Errorf("%s: stops with the daemon", name(d))
			}
		}
		next := r.open(t)
		if got, there := next.Traffic(flow(inward, 0)); !there || got.Packets == 0 {
			t.Errorf("taken over: %+v, there: %v", got, there)
		}
	})
}

package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

// hook is where a program is attached. A pin of a link is named for it and for the
// interface's index.
type hook string

const (
	xdp     hook = "xdp"
	ingress hook = "ingress"
	egress  hook = "egress"
)

// of reports whether an interface has the hook's program.
func (h hook) of(held ports.Held) bool {
	switch h {
	case xdp:
		return held.XDP
	case ingress:
		return held.In
	}
	return held.Out
}

func (h hook) pin(dir string, index int) string {
	return filepath.Join(dir, string(h)+"_"+strconv.Itoa(index))
}

// What Load and the daemon note about a port: in port.clsact, which the programs do not read.
const (
	byCLSACT   = 1 << iota // there is no tcx: it is attached by filters
	madeCLSACT             // of a qdisc that Load has made
	refusedXDP             // Load has tried XDP in vain
	idleXDP                // Load has attached XDP, and the daemon has taken it out of use
)

// berth is a port that is being attached.
type berth struct {
	told     *Attached
	number   int
	port     fastpathPort
	programs *fastpathPrograms
}

// attachAll attaches the programs to all ports that are to have them, and detaches those of
// other interfaces. If the ports change, the kernel decides on all flows anew.
func (l *loader) attachAll(all []ports.Port) ([]Attached, error) {
	before, err := l.maps.ports()
	if err != nil {
		return nil, err
	}
	now, err := l.dismiss(before, all)
	if err != nil {
		return nil, err
	}
	if l.held, err = ports.AskHeld(indexes(all)); err != nil {
		return nil, err
	}
	told := make([]Attached, len(all))
	var berths []*berth
	defer func() {
		for _, b := range berths {
			b.programs.Close()
		}
	}()
	for i, p := range all {
		told[i] = Attached{Port: p}
		told[i].XDP, told[i].TC = false, false
		if !p.XDP && !p.TC {
			continue
		}
		b, err := l.berth(now, &told[i], p)
		if err != nil {
			return nil, err
		}
		if b != nil {
			berths = append(berths, b)
			l.attach(b, p.XDP)
		}
	}
	l.attachIngress(berths)
	for _, b := range berths {
		now[b.number] = b.port
		b.told.XDP, b.told.TC = b.port.Xdp != 0, b.port.Tc != 0
		b.told.CLSACT, b.told.Refused = b.port.Clsact&byCLSACT != 0, b.port.Clsact&refusedXDP != 0
	}
	if err := l.write(before, now); err != nil {
		return nil, err
	}
	return told, detachOthers(l.dir, now)
}

func indexes(all []ports.Port) (some []int) {
	for _, p := range all {
		if p.Used() {
			some = append(some, p.Index)
		}
	}
	return some
}

// dismiss detaches what is no longer wanted, and returns the ports that are left. What was
// to leave by others is out of force before their numbers are used again.
func (l *loader) dismiss(before []fastpathPort, all []ports.Port) ([]fastpathPort, error) {
	now := slices.Clone(before)
	for n, p := range before {
		wanted := func(w ports.Port) bool { return w.Index == int(p.Ifindex) && (w.XDP || w.TC) }
		if p.Ifindex == 0 || slices.ContainsFunc(all, wanted) {
			continue
		}
		now[n] = fastpathPort{}
		if err := l.maps.setPort(n, now[n]); err != nil {
			return nil, err
		}
		detach(l.dir, p)
	}
	if !slices.Equal(now, before) {
		l.maps.changed()
	}
	return now, nil
}

// berth gives a port a number, its old one if it has one, and loads its programs. It returns
// nil if there are too many ports.
func (l *loader) berth(now []fastpathPort, told *Attached, p ports.Port) (*berth, error) {
	n := numberOf(now, p.Index)
	if n < 0 {
		n = numberOf(now, 0)
	}
	if n < 0 {
		told.Why = fmt.Sprintf("there are %d other interfaces", len(now))
		return nil, nil
	}
	port := fastpathPort{Ifindex: uint32(p.Index), Clsact: now[n].Clsact & (byCLSACT | madeCLSACT)}
	if len(p.MAC) == len(port.Mac) {
		port.Mac, port.Head = [6]uint8(p.MAC), 14
	}
	now[n] = port
	programs, err := l.programs(n, port.Head)
	if err != nil {
		return nil, err
	}
	return &berth{told: told, number: n, port: port, programs: programs}, nil
}

// kernelNames are the programs' names in the kernel, by which Choose knows them.
var kernelNames = map[string]string{
	fastpathProgForward: ports.ProgramPrefix + "_xdp", fastpathProgForwardSkb: ports.ProgramPrefix + "_tc", fastpathProgLearn: ports.ProgramPrefix + "_learn",
}

// programs loads the programs of one port.
func (l *loader) programs(number int, head uint8) (*fastpathPrograms, error) {
	spec := l.spec.Copy()
	for name, value := range map[string]any{
		fastpathVarPORT: uint32(number), fastpathVarHEAD: uint32(head),
		fastpathVarMASK: uint32(len(l.maps.flows) - 1), fastpathVarSECRET: l.maps.control.Secret,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	var p fastpathPrograms
	if err := spec.LoadAndAssign(&p, &ebpf.CollectionOptions{MapReplacements: l.maps.maps}); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return &p, nil
}

// attach attaches what learns, and XDP if it can be had. A port that cannot be attached is
// none.
func (l *loader) attach(b *berth, byXDP bool) {
	index := int(b.port.Ifindex)
	if err := l.attachTC(b, egress); err != nil {
		b.told.Why = err.Error()
		detach(l.dir, b.port)
		b.port = fastpathPort{}
		return
	}
	pin := xdp.pin(l.dir, index)
	if !byXDP || b.port.Head == 0 {
		drop(pin)
		return
	}
	err := l.link(xdp, index, b.programs.Forward, func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: b.programs.Forward, Interface: index, Flags: link.XDPDriverMode})
	})
	sends := false
	if err == nil {
		sends, err = ports.Sends(index) // most drivers tell only with a program attached
	}
	if err == nil && !sends {
		err = errSends
	}
	if err != nil {
		drop(pin)
		l.refused(b, err)
		return
	}
	b.port.Xdp = 1
}

// refused has a port do without XDP: by tc, or not at all if only XDP is wanted. It stays a
// port, so that the daemon knows that loading again would not help.
func (l *loader) refused(b *berth, err error) {
	b.told.Why = "no XDP: " + whyNot(err)
	b.port.Clsact |= refusedXDP
	if l.o.OnlyXDP {
		detach(l.dir, b.port)
		b.port.Clsact = refusedXDP
	}
}

var errSends = errors.New("the driver does not send what XDP redirects")

// whyNot says in plain words why there is no XDP.
func whyNot(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "another XDP program is attached"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "the driver accepts no XDP program"
	}
	return err.Error()
}

// attachIngress attaches what forwards in tc to all ports, if one has no XDP: else packets
// between that and the others could not be forwarded.
func (l *loader) attachIngress(berths []*berth) {
	needed := !l.o.OnlyXDP && slices.ContainsFunc(berths, func(b *berth) bool { return b.port.Ifindex != 0 && b.port.Xdp == 0 })
	for _, b := range berths {
		if b.port.Ifindex == 0 {
			continue
		}
		if !needed {
			l.detachTC(b.port, ingress)
			continue
		}
		if err := l.attachTC(b, ingress); err != nil {
			b.told.Why = err.Error()
			continue
		}
		b.port.Tc = 1
	}
}

// attachTC attaches a program in tc: by tcx, or by a filter where the kernel has no tcx.
func (l *loader) attachTC(b *berth, at hook) error {
	program, kind, index := b.programs.ForwardSkb, ebpf.AttachTCXIngress, int(b.port.Ifindex)
	if at == egress {
		program, kind = b.programs.Learn, ebpf.AttachTCXEgress
	}
	err := error(link.ErrNotSupported)
	if !l.o.clsact {
		err = l.link(at, index, program, func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: kind})
		})
	}
	if !errors.Is(err, link.ErrNotSupported) {
		return err
	}
	made, err := addFilter(index, program.FD(), at)
	if err != nil {
		return err
	}
	b.port.Clsact |= byCLSACT
	if made {
		b.port.Clsact |= madeCLSACT
	}
	return nil
}

func (l *loader) detachTC(p fastpathPort, at hook) {
	drop(at.pin(l.dir, int(p.Ifindex)))
	if p.Clsact&byCLSACT != 0 {
		removeFilter(int(p.Ifindex), at)
	}
}

// link has a program in the place of the one that a pinned link has attached, or attaches and
// pins it. A link may also lead to an interface that has gone to another namespace, where it
// keeps its index.
func (l *loader) link(at hook, index int, p *ebpf.Program, attach func() (link.Link, error)) error {
	pin := at.pin(l.dir, index)
	if old, err := link.LoadPinnedLink(pin, nil); err == nil {
		defer old.Close()
		if at.of(l.held[index]) && alive(old) && old.Update(p) == nil {
			return nil
		}
	}
	drop(pin)
	made, err := attach()
	if err != nil {
		return err
	}
	defer made.Close()
	if err := made.Pin(pin); err != nil {
		return fmt.Errorf("pin a link: %w", err)
	}
	return os.Chmod(pin, 0o600)
}

// alive reports whether a link's interface is still there.
func alive(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	if x := info.XDP(); x != nil {
		return x.Ifindex != 0
	}
	t := info.TCX()
	return t != nil && t.Ifindex != 0
}

// drop detaches a link and removes its pin, if it is there.
func drop(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer l.Close()
		l.Detach() // fails if the interface is gone
	}
	return os.Remove(pin)
}

// detach detaches all programs of a port.
func detach(dir string, p fastpathPort) {
	for _, h := range []hook{xdp, ingress, egress} {
		drop(h.pin(dir, int(p.Ifindex)))
	}
	if p.Clsact&byCLSACT != 0 {
		removeFilters(int(p.Ifindex), p.Clsact&madeCLSACT != 0)
	}
}

// linked calls f for the pin of each link in a folder, with the index of its interface.
func linked(dir string, f func(pin string, index int)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, number, _ := strings.Cut(e.Name(), "_")
		index, err := strconv.Atoi(number)
		if err == nil && slices.Contains([]hook{xdp, ingress, egress}, hook(name)) {
			f(filepath.Join(dir, e.Name()), index)
		}
	}
	return nil
}

// detachOthers drops links that belong to no port: those of a process that was killed.
func detachOthers(dir string, ports []fastpathPort) error {
	return linked(dir, func(pin string, index int) {
		if numberOf(ports, index) < 0 {
			drop(pin)
		}
	})
}

// deserted reports whether there are links in a folder, and none of their interfaces.
func deserted(dir string) bool {
	dead, living := 0, 0
	err := linked(dir, func(pin string, _ int) {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			living++ // as far as anybody knows
			return
		}
		defer l.Close()
		if alive(l) {
			living++
		} else {
			dead++
		}
	})
	return err == nil && dead > 0 && living == 0
}

// detachAll detaches all programs of a network namespace.
func detachAll(dir string) error {
	if s, err := openPinned(filepath.Join(dir, mapsDir), mapPins); err == nil {
		defer s.close()
		all, err := s.ports()
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Ifindex != 0 {
				detach(dir, p)
			}
		}
	}
	return detachOthers(dir, nil)
}

// write writes the ports that have changed, and has the kernel decide on all flows anew if
// there are any. It always says which interfaces XDP redirects to: the kernel forgets one that
// goes, also if it comes back with the same index (dev_map_notification).
func (l *loader) write(before, now []fastpathPort) error {
	for n, p := range now {
		if p.Xdp != 0 {
			if err := l.maps.maps[fastpathMapOut].Put(uint32(n), p.Ifindex); err != nil {
				return fmt.Errorf("write port %d: %w", n, err)
			}
		}
		if p == before[n] {
			continue
		}
		if err := l.maps.setPort(n, p); err != nil {
			return err
		}
	}
	if !slices.Equal(now, before) {
		l.maps.changed()
	}
	return nil
}

package fastpath

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

// sight is the ports as they are loaded, and what the kernel has attached. An interface that
// goes loses its programs, or at least its place in map out, and one of the same index may
// come back; pins may be unmounted. Map ports knows nothing of all that.
type sight struct {
	maps  *pinned
	ports []fastpathPort
	sends []bool // map out leads to the interface
	held  map[int]ports.Held
}

// Attached returns the ports that are loaded, as they are attached now in the calling thread's
// network namespace. The error is os.ErrNotExist if they are unloaded.
func (t *Table) Attached() ([]Attached, error) {
	s, err := t.see()
	if err != nil {
		return nil, err
	}
	return s.attached(), nil
}

// Settle takes ports out of use at once that are not attached any more, or not to be used as
// they are: their packets go through the kernel, or by tc. Packets that XDP redirects to a
// port that cannot send them are lost. What is in order again is put to use again, as far as
// that needs no Load. It returns what Attached does then.
func (t *Table) Settle(chosen []ports.Port) ([]Attached, error) {
	defer t.alone()()
	s, err := t.see()
	if err != nil {
		return nil, err
	}
	before := slices.Clone(s.ports)
	for n := range s.ports {
		s.settle(n, chosen)
	}
	return s.attached(), t.write(before, s)
}

// alone has no Load run meanwhile, unless that takes too long. It returns what ends it.
func (t *Table) alone() func() {
	f, err := os.Open(filepath.Dir(t.dir))
	if err != nil {
		return func() {} // unmounted, so that nobody can load
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(patience / 50) {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			break
		}
	}
	return func() { f.Close() }
}

// see looks at the ports. The kernel is asked without mu, as that may take a while.
func (t *Table) see() (*sight, error) {
	s, err := t.loaded()
	if err != nil {
		return nil, err
	}
	var all []int
	for _, p := range s.ports {
		if p.Ifindex != 0 {
			all = append(all, int(p.Ifindex))
		}
	}
	s.held, err = ports.AskHeld(all)
	return s, err
}

// loaded looks at the maps, or at those that have replaced them.
func (t *Table) loaded() (*sight, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = time.Time{} // what has just been replaced is not unloaded
	if !t.open() {
		return nil, os.ErrClosed
	}
	t.follow() // maps whose pins were unmounted are not retired
	if t.maps.retired() {
		return nil, os.ErrNotExist
	}
	all, err := t.maps.ports()
	if err != nil {
		return nil, err
	}
	s := &sight{maps: t.maps, ports: all}
	for n, p := range all {
		s.sends = append(s.sends, t.maps.sends(n, p))
	}
	return s, nil
}

// write writes the ports that have changed.
func (t *Table) write(before []fastpathPort, s *sight) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.maps != s.maps || slices.Equal(before, s.ports) {
		return nil
	}
	for n, p := range s.ports {
		if p != before[n] {
			err = errors.Join(err, s.maps.setPort(n, p))
		}
	}
	s.maps.changed()
	return err
}

// works returns what a port is attached for. What no program learns does not leave by it.
func (s *sight) works(n int) (byXDP, byTC bool) {
	held := s.held[int(s.ports[n].Ifindex)]
	return held.Out && held.XDP && s.sends[n], held.Out && held.In
}

// settle has a port in use for what it is attached for and may be used for.
func (s *sight) settle(n int, chosen []ports.Port) {
	p := &s.ports[n]
	if p.Ifindex == 0 {
		return
	}
	byXDP, byTC := s.works(n)
	i := slices.IndexFunc(chosen, func(c ports.Port) bool { return c.Index == int(p.Ifindex) })
	if i < 0 {
		i, chosen = 0, []ports.Port{{}}
	}
	c := &chosen[i]
	if !byTC || !c.Used() && !c.Down {
		p.Tc = 0
	}
	if p.Xdp != 0 || p.Clsact&idleXDP != 0 {
		p.setXDP(byXDP && (c.XDP || c.Down), c.MAC)
	}
}

// setXDP puts the XDP of a port to use, or takes it out. Its program takes no packet without
// an address that they are sent to.
func (p *fastpathPort) setXDP(on bool, mac net.HardwareAddr) {
	if !on {
		p.Xdp, p.Mac = 0, [6]uint8{}
		p.Clsact |= idleXDP
		return
	}
	p.Xdp = 1
	p.Clsact &^= idleXDP
	if len(mac) == len(p.Mac) {
		p.Mac = [6]uint8(mac)
	}
}

func (s *sight) attached() (told []Attached) {
	for n, p := range s.ports {
		if p.Ifindex == 0 {
			continue
		}
		byXDP, byTC := s.works(n)
		a := Attached{Port: ports.Port{Index: int(p.Ifindex), XDP: p.Xdp != 0 && byXDP, TC: p.Tc != 0 && byTC}}
		a.CLSACT, a.Refused = p.Clsact&byCLSACT != 0, p.Clsact&refusedXDP != 0
		there, idle := s.held[a.Index].XDP, p.Clsact&idleXDP != 0
		a.Idle, a.Taken = there && idle, there && !idle && p.Xdp == 0
		if p.Head != 0 {
			a.MAC = net.HardwareAddr(p.Mac[:])
		}
		if i, err := net.InterfaceByIndex(a.Index); err == nil {
			a.Name = i.Name
		}
		told = append(told, a)
	}
	return told
}

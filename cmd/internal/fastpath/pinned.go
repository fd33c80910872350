package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// layout is of the maps; LAYOUT of the programs.
const layout = 2

// dataMap is the map that holds the variable of the programs.
const dataMap = ".data"

// The pins of the maps. The kernel forbids dots in their names. The daemon writes all but
// those of root, which it may read.
var (
	mapPins  = map[string]string{fastpathMapFlows: "flows", fastpathMapLeaving: "leaving", fastpathMapPorts: "ports", fastpathMapEvents: "events", dataMap: "said"}
	rootPins = map[string]string{fastpathMapOut: "out"}
)

// pinned is the maps that programs and daemon share.
type pinned struct {
	maps    map[string]*ebpf.Map // by name in the programs
	out     *ebpf.Map            // to read only; nil: it cannot be read
	memory  []byte
	flows   []fastpathFlow // memory
	page    []byte
	control *fastpathControl // page
}

var loadPinnedMap = ebpf.LoadPinnedMap // for tests

var errReplaced = errors.New("other maps have just replaced them")

// openPinned opens maps in a folder, all of them or none: Load may put another folder with
// other maps in its place meanwhile. Who may not use BPF learns all the same that there is none.
func openPinned(dir string, pins ...map[string]string) (*pinned, error) {
	before, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	s := &pinned{maps: make(map[string]*ebpf.Map)}
	if err := s.open(dir, pins); err != nil {
		s.close()
		return nil, err
	}
	if after, err := os.Stat(dir); err != nil || !os.SameFile(before, after) {
		s.close()
		return nil, errReplaced
	}
	return s, nil
}

func (s *pinned) open(dir string, pins []map[string]string) error {
	for _, some := range pins {
		for name, pin := range some {
			m, err := loadPinnedMap(filepath.Join(dir, pin), nil)
			if err != nil {
				return fmt.Errorf("open %s: %w", filepath.Join(dir, pin), err)
			}
			s.maps[name] = m
		}
	}
	// Kernels before 5.19 have nobody but root read it.
	s.out, _ = loadPinnedMap(filepath.Join(dir, rootPins[fastpathMapOut]), &ebpf.LoadPinOptions{ReadOnly: true})
	return s.share()
}

var errOther = errors.New("the maps are of another release")

// share maps flows and control into memory.
func (s *pinned) share() (err error) {
	flows, said := s.maps[fastpathMapFlows], s.maps[dataMap]
	const flowSize, controlSize = unsafe.Sizeof(fastpathFlow{}), unsafe.Sizeof(fastpathControl{})
	if flows.ValueSize() != uint32(flowSize) || said.ValueSize() != uint32(controlSize) {
		return errOther
	}
	n := flows.MaxEntries()
	if s.page, err = unix.Mmap(said.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the control words: %w", err)
	}
	s.control = (*fastpathControl)(unsafe.Pointer(&s.page[0]))
	if s.control.Layout != layout || s.control.Places != n || n&(n-1) != 0 || n == 0 {
		return errOther
	}
	if s.memory, err = unix.Mmap(flows.FD(), 0, int(n)*int(flowSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the flows: %w", err)
	}
	s.flows = unsafe.Slice((*fastpathFlow)(unsafe.Pointer(&s.memory[0])), n)
	return nil
}

func (s *pinned) retired() bool { return atomic.LoadUint32(&s.control.Retired) != 0 }

func (s *pinned) generation() uint32 { return atomic.LoadUint32(&s.control.Generation) }

// changed counts the generation up. Its lower half is never 0. Daemon and Load may do so at
// the same time.
func (s *pinned) changed() {
	for {
		was := s.generation()
		now := was + 1
		if uint16(now) == 0 {
			now++
		}
		if atomic.CompareAndSwapUint32(&s.control.Generation, was, now) {
			return
		}
	}
}

func (s *pinned) interval() uint32 { return atomic.LoadUint32(&s.control.Interval) }

// ports returns all ports, by their numbers.
func (s *pinned) ports() ([]fastpathPort, error) {
	m := s.maps[fastpathMapPorts]
	all := make([]fastpathPort, m.MaxEntries())
	for i := range all {
		if err := m.Lookup(uint32(i), &all[i]); err != nil {
			return nil, fmt.Errorf("read port %d: %w", i, err)
		}
	}
	return all, nil
}

func (s *pinned) setPort(number int, p fastpathPort) error {
	if err := s.maps[fastpathMapPorts].Put(uint32(number), p); err != nil {
		return fmt.Errorf("write port %d: %w", number, err)
	}
	return nil
}

// sends reports whether XDP can redirect to a port, as far as that can be read.
func (s *pinned) sends(number int, p fastpathPort) bool {
	if s.out == nil {
		return true
	}
	var index uint32
	err := s.out.Lookup(uint32(number), &index)
	return err == nil && index == p.Ifindex || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist)
}

func (s *pinned) close() {
	for _, m := range s.maps {
		m.Close()
	}
	s.out.Close()
	for _, b := range [][]byte{s.memory, s.page} {
		if b != nil {
			unix.Munmap(b)
		}
	}
	*s = pinned{}
}

// leavingMap is map leaving.
type leavingMap struct{ m *ebpf.Map }

func (l leavingMap) add(k fastpathLeaves, s fastpathSent) error {
	return l.m.Update(k, s, ebpf.UpdateNoExist)
}

func (l leavingMap) set(k fastpathLeaves, s fastpathSent) error { return l.m.Put(k, s) }

func (l leavingMap) at(k fastpathLeaves) (uint32, error) {
	var s fastpathSent
	err := l.m.Lookup(k, &s)
	return s.Place, err
}

func (l leavingMap) remove(k fastpathLeaves) error { return l.m.Delete(k) }

// millis is the programs' clock.
func millis() uint32 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		panic(err) // every kernel has it
	}
	return max(1, uint32(t.Nano()>>20))
}

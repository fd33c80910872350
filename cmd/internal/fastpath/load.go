package fastpath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

// Options are what Load is told beside the ports.
type Options struct {
	Dir      string        // "": DefaultDir
	Interval time.Duration // for which a decision of the kernel is in force; 0: DefaultInterval
	Flows    uint32        // at most; 0: as many as the maps that are there take, or DefaultFlows
	Group    int           // whose members may use the maps; -1: none
	OnlyXDP  bool          // where the driver refuses XDP, nothing is attached instead

	clsact bool // as where the kernel has no tcx, for tests
}

// Defaults of Options.
const (
	DefaultInterval = 2 * time.Second
	DefaultFlows    = 1 << 15
)

// Limits of Options.
const (
	leastFlows = 1 << 7
	mostFlows  = 1 << 24
)

// Attached is a port and what is attached to it.
type Attached struct {
	ports.Port      // XDP and TC: what is attached; Why: why that, and not more
	CLSACT     bool // by a qdisc of kind clsact, and not by tcx
	Refused    bool // Load has tried XDP in vain
	Idle       bool // XDP is attached, but Table.Settle has taken it out of use
	Taken      bool // another's program is in the place for XDP
}

// Loaded is what Load has done.
type Loaded struct {
	Dir     string     // the pins of this network namespace
	Adopted bool       // the flows that were there go on
	Why     string     // why they do not, if there were any
	Flows   uint32     // that there is room for
	Ports   []Attached // all that were asked for
}

// Load attaches the programs to ports, and detaches those of other interfaces. Where they
// are attached already, new programs replace the old ones, and no packet is lost. It needs
// root, and mounts a BPF file system at o.Dir if there is none.
func Load(all []ports.Port, o Options) (Loaded, error) {
	l := &loader{o: o.filled()}
	defer l.close()
	if err := l.open(); err != nil {
		return Loaded{}, fmt.Errorf("load the fast path: %w", err)
	}
	done, err := l.load(all)
	if err != nil {
		return Loaded{}, fmt.Errorf("load the fast path: %w", errors.Join(err, l.undo()))
	}
	sweep(l.o.Dir, l.dir)
	return done, nil
}

func (o Options) filled() Options {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	return o
}

// loader is one Load.
type loader struct {
	o     Options
	dir   string // of the network namespace
	lock  *os.File
	spec  *ebpf.CollectionSpec
	maps  *pinned
	held  map[int]ports.Held // by index
	fresh bool               // maps are new and not in their place yet
	why   string
}

// open takes the folder of the network namespace, and its maps or new ones.
func (l *loader) open() (err error) {
	if l.spec, err = loadSpec(); err != nil {
		return err
	}
	if l.dir, err = folder(l.o.Dir); err != nil {
		return err
	}
	if err = mount(l.o.Dir, l.o.Group); err != nil {
		return err
	}
	if l.lock, err = lock(l.o.Dir); err != nil {
		return err
	}
	if err = os.Mkdir(l.dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err = give(l.dir, l.o.Group, 0o750); err != nil {
		return err
	}
	if err = l.adopt(); err == nil {
		return l.pin(filepath.Join(l.dir, mapsDir), false)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		l.why = err.Error()
	}
	return l.create()
}

// loadSpec returns programs and maps as they are in the object.
func loadSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadFastpath()
	if err != nil {
		return nil, err
	}
	spec.Maps[dataMap].Flags |= unix.BPF_F_MMAPABLE
	for name, as := range kernelNames {
		spec.Programs[name].Name = as
	}
	return spec, nil
}

// lock has one process at a time load or unload.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

var errSize = errors.New("the maps have another size")

// adopt takes the maps that are pinned, if they fit.
func (l *loader) adopt() error {
	s, err := openPinned(filepath.Join(l.dir, mapsDir), mapPins, rootPins)
	if err != nil {
		return err
	}
	l.size(uint32(len(s.flows)))
	err = l.fits(s)
	if err == nil && l.o.Flows != 0 && placesFor(l.o.Flows) != len(s.flows) {
		err = errSize
	}
	if err != nil {
		removeAllFilters(s)
		s.close()
		return err
	}
	l.maps = s
	return nil
}

func (l *loader) fits(s *pinned) error {
	for name, m := range s.maps {
		if err := l.spec.Maps[name].Compatible(m); err != nil {
			return fmt.Errorf("%w: %w", errOther, err)
		}
	}
	if s.control.Secret == [2]uint64{} || s.retired() {
		return errOther
	}
	return nil
}

// size has the maps made for so many places.
func (l *loader) size(places uint32) {
	l.spec.Maps[fastpathMapFlows].MaxEntries = places
	l.spec.Maps[fastpathMapLeaving].MaxEntries = places / 2
}

// placesFor returns how many places there are for so many flows.
func placesFor(flows uint32) int {
	return 1 << bits.Len32(2*min(max(flows, leastFlows), mostFlows)-1)
}

// create makes new maps, and pins them beside those that are there.
func (l *loader) create() error {
	flows := l.o.Flows
	if flows == 0 {
		flows = DefaultFlows
	}
	places := uint32(placesFor(flows))
	l.size(places)
	s := &pinned{maps: make(map[string]*ebpf.Map)}
	l.maps, l.fresh = s, true
	for _, pins := range []map[string]string{mapPins, rootPins} {
		for name := range pins {
			m, err := ebpf.NewMap(l.spec.Maps[name])
			if err != nil {
				return fmt.Errorf("make map %s: %w", name, err)
			}
			s.maps[name] = m
		}
	}
	var random [16]byte
	rand.Read(random[:])
	c := fastpathControl{Layout: layout, Places: places, Generation: 1, Secret: [2]uint64{binary.NativeEndian.Uint64(random[:]), binary.NativeEndian.Uint64(random[8:])}}
	if err := s.maps[dataMap].Put(uint32(0), c); err != nil {
		return fmt.Errorf("write the control words: %w", err)
	}
	if err := s.share(); err != nil {
		return err
	}
	dir := l.newDir()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		return err
	}
	return l.pin(dir, true)
}

func (l *loader) newDir() string { return filepath.Join(l.dir, mapsDir+"_new") }

// pin has the maps' pins belong to the group. If the maps are new, it makes the pins.
func (l *loader) pin(dir string, anew bool) error {
	if err := give(dir, l.o.Group, 0o750); err != nil {
		return err
	}
	for mode, pins := range map[os.FileMode]map[string]string{0o660: mapPins, 0o640: rootPins} {
		for name, pin := range pins {
			at := filepath.Join(dir, pin)
			if anew {
				if err := l.maps.maps[name].Pin(at); err != nil {
					return fmt.Errorf("pin map %s: %w", name, err)
				}
			}
			if err := give(at, l.o.Group, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) load(all []ports.Port) (Loaded, error) {
	l.maps.control.Interval = max(1, uint32(l.o.Interval>>20))
	done := Loaded{Dir: l.dir, Adopted: !l.fresh, Why: l.why, Flows: uint32(len(l.maps.flows) / 2)}
	var err error
	if done.Ports, err = l.attachAll(all); err != nil {
		return Loaded{}, err
	}
	if !l.fresh {
		return done, nil
	}
	return done, l.install()
}

// undo leaves the old maps in use or, where some programs may have the new ones already,
// nothing.
func (l *loader) undo() error {
	if !l.fresh {
		return nil
	}
	l.fresh = false
	return remove(l.dir)
}

// install puts new maps in the place of the old ones.
func (l *loader) install() error {
	place := filepath.Join(l.dir, mapsDir)
	l.carryOver(place)
	if err := discard(place); err != nil {
		return err
	}
	if err := os.Rename(l.newDir(), place); err != nil {
		return err
	}
	l.fresh = false
	return nil
}

// discard removes the pins of maps that no program uses any more. A daemon that has them
// open finds them retired.
func discard(dir string) error {
	if m, err := ebpf.LoadPinnedMap(filepath.Join(dir, mapPins[dataMap]), nil); err == nil {
		defer m.Close()
		var c fastpathControl
		if m.Lookup(uint32(0), &c) == nil { // or it is of a release that this one knows nothing of
			c.Retired = 1
			m.Put(uint32(0), c)
		}
	}
	return os.RemoveAll(dir)
}

func (l *loader) close() {
	if l.fresh {
		os.RemoveAll(l.newDir())
	}
	if l.maps != nil {
		l.maps.close()
	}
	if l.lock != nil {
		l.lock.Close()
	}
}

// Unload detaches the programs from all interfaces of this network namespace, and removes
// the pins. It is no error if nothing is loaded.
func Unload(dir string) error {
	if dir == "" {
		dir = DefaultDir
	}
	own, err := folder(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) {
		return unmount(dir)
	}
	f, err := lock(dir)
	if err != nil {
		return fmt.Errorf("unload the fast path: %w", err)
	}
	err = remove(own)
	f.Close()
	if err != nil {
		return fmt.Errorf("unload the fast path: %w", err)
	}
	return unmount(dir)
}

// remove detaches the programs of a network namespace and removes its folder.
func remove(own string) error {
	return errors.Join(detachAll(own), discard(filepath.Join(own, mapsDir)), os.RemoveAll(own))
}

// sweep removes the folders of network namespaces that are gone: all interfaces to which
// programs were linked are.
func sweep(dir, own string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the folders stay until the next Load
	}
	for _, e := range entries {
		if at := filepath.Join(dir, e.Name()); e.IsDir() && at != own && deserted(at) {
			discard(filepath.Join(at, mapsDir))
			os.RemoveAll(at)
		}
	}
}

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fresh is a machine of its own with a clean Debian under systemd, on which somebody new
// installs the package, has it carry calls, breaks them, asks why, upgrades, restarts the
// machine and takes the package away.
type fresh struct {
	kernel   kernel
	packages [2]string // two versions, the older one first
	accel    string
	cache    string
	scenes   string // a regular expression of the walk's functions, "" for all
}

// freshRelease is the Debian of the machines, and freshPackages what is on them beside what
// every Debian has: systemd, what the walk needs, and peers to call.
const (
	freshRelease  = "bookworm"
	freshPackages = "systemd,systemd-sysv,dbus,apt,iproute2,kmod,procps,iputils-ping,ppp,pptp-linux,pptpd"
)

// debian is a system that the walk is done on.
type debian struct {
	packages string   // on it
	starts   []string // of the machine
	scenes   []string // functions of the walk that are done there if they are asked for
}

// debians are one with firewalls that own the rule set, and one without a program that loads
// rules, whose systemd-networkd masquerades.
var debians = []debian{
	{
		packages: freshPackages + ",iptables,nftables,firewalld,shorewall",
		starts:   []string{"first", "second"},
		scenes:   []string{"newcomer", "fast", "crash", "configuration", "broken", "fast_at_start", "old_hand", "behind_firewalld", "behind_shorewall"},
	},
	{packages: freshPackages + ",udev", starts: []string{"only"}, scenes: []string{"without_programs"}},
}

// The walk is what is done on the machine, before and after its restart.
var (
	//go:embed testdata/walk.sh
	walk string
	//go:embed testdata/walk.service
	walkUnit string
)

// asFresh has process 1 hand over to the systemd of a root that may be written, as the
// kernel passes on what it does not know of its command line.
const asFresh = "VMTEST_FRESH"

// run has the walk done on each system that has one of the scenes.
func (f fresh) run(ctx context.Context, within time.Duration) error {
	wanted, err := regexp.Compile(f.scenes)
	if err != nil {
		return fmt.Errorf("read scenes: %w", err)
	}
	ran := false
	for _, d := range debians {
		if !slices.ContainsFunc(d.scenes, wanted.MatchString) {
			continue
		}
		ran = true
		if err := f.walk(ctx, d, within); err != nil {
			return err
		}
	}
	if !ran {
		return fmt.Errorf("no scene is named %q", f.scenes)
	}
	return nil
}

// walk makes a machine's disk, and has the machine start.
func (f fresh) walk(ctx context.Context, d debian, within time.Duration) error {
	system, err := f.system(ctx, d.packages)
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "pptpalg-fresh-")
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	defer os.RemoveAll(root)
	if err := output(ctx, nil, "tar", "-xf", system, "-C", root); err != nil {
		return err
	}
	if err := f.prepare(root); err != nil {
		return fmt.Errorf("prepare root: %w", err)
	}
	m := machine{kernel: f.kernel, program: "/dev/null", accel: f.accel, scenes: f.scenes, root: root}
	for _, part := range d.starts {
		started := time.Now()
		if err := m.run(ctx, within); err != nil {
			return fmt.Errorf("%s start: %w", part, err)
		}
		fmt.Printf("fresh: the %s start took %.0f s\n", part, time.Since(started).Seconds())
	}
	return nil
}

// system returns a tar of a clean system, made by the first run and kept.
func (f fresh) system(ctx context.Context, packages string) (string, error) {
	name := filepath.Join(f.cache, freshRelease+"_"+strings.ReplaceAll(packages, ",", "+")+".tar")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	fmt.Printf("making a clean Debian in %s\n", name)
	part, err := os.MkdirTemp(f.cache, "fresh-")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(part)
	tar := filepath.Join(part, "system.tar")
	if err := output(ctx, nil, "mmdebstrap", "--quiet", "--variant=essential", "--include="+packages, freshRelease, tar); err != nil {
		return "", err
	}
	return name, os.Rename(tar, name)
}

// idle are units without which a machine starts faster, and which nobody misses here. No
// server is to run on the gateway itself.
var idle = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
	"e2scrub_reap.service", "getty@.service", "serial-getty@.service", "systemd-logind.service", "systemd-update-utmp.service", "pptpd.service",
	"firewalld.service", // the walk starts it when it is its turn
}

// prepare puts into the root the walk and the packages.
func (f fresh) prepare(root string) error {
	at := func(name string) string { return filepath.Join(root, name) }
	const units = "etc/systemd/system"
	errs := []error{
		os.MkdirAll(at("usr/lib/modules"), 0o755),
		os.MkdirAll(at(units+"/multi-user.target.wants"), 0o755),
		os.WriteFile(at("walk.sh"), []byte(walk), 0o755),
		os.WriteFile(at(units+"/walk.service"), []byte(walkUnit), 0o644),
		os.Symlink("../walk.service", at(units+"/multi-user.target.wants/walk.service")),
		os.WriteFile(at("etc/hostname"), []byte("gateway\n"), 0o644),
		copyProgram(f.packages[0], at("old.deb")),
		copyProgram(f.packages[1], at("new.deb")),
	}
	for _, unit := range idle {
		errs = append(errs, os.Symlink("/dev/null", at(filepath.Join(units, unit))))
	}
	return errors.Join(errs...)
}

// handOver is what process 1 does on this machine, until systemd has its place.
func handOver() error {
	if err := loadModules(); err != nil {
		return err
	}
	const shared = "trans=virtio,version=9p2000.L,cache=loose,msize=262144"
	if err := unix.Mount(rootTag, "/"+newRoot, "9p", 0, shared); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	// The share has boot and lib, and modprobe looks in /lib/modules.
	at := filepath.Join("/", newRoot, "mnt")
	if err := unix.Mount(kernelTag, at, "9p", unix.MS_RDONLY, shared); err != nil {
		return fmt.Errorf("mount kernel: %w", err)
	}
	if err := unix.Mount(filepath.Join(at, "lib/modules"), filepath.Join("/", newRoot, "usr/lib/modules"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount modules: %w", err)
	}
	if err := switchRoot(); err != nil {
		return err
	}
	return fmt.Errorf("start systemd: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}))
}

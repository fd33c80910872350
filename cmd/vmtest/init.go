package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// home is where the guest finds this program, pptpalg and the kernel's modules; the
// machine's own directories may be hidden by the tmpfs over /tmp.
const home = "/run/vmtest"

// boot is what process 1 does. It never returns: a kernel without process 1 panics,
// which would end the virtual machine too, without a reason.
func boot() {
	if os.Getenv(asFresh) != "" {
		report(handOver())
	} else if err := prepare(); err != nil {
		report(err)
	} else {
		runGuest()
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func prepare() error {
	if err := loadModules(); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	for from, to := range map[string]string{"/init": "vmtest", "/pptpalg": "pptpalg"} {
		if err := copyProgram(from, filepath.Join("/", newRoot, home, to)); err != nil {
			return err
		}
	}
	if err := switchRoot(); err != nil {
		return err
	}
	return findModules()
}

func loadModules() error {
	files, err := filepath.Glob("/" + moduleDir + "/*")
	if err != nil {
		return err
	}
	for _, name := range files { // in order
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST { // two of them may need the same one
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// mountAll puts the machine's root under newRoot, and what has to be the guest's own
// over it.
func mountAll() error {
	const shared = "trans=virtio,version=9p2000.L,cache=loose,msize=262144"
	for _, m := range []struct {
		source, on, kind string
		flags            uintptr
		data             string
	}{
		{rootTag, "", "9p", unix.MS_RDONLY, shared},
		{"proc", "proc", "proc", 0, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"devtmpfs", "dev", "devtmpfs", 0, ""},
		{"devpts", "dev/pts", "devpts", 0, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "run", "tmpfs", 0, "mode=0755"},
		{"tmpfs", "tmp", "tmpfs", 0, "mode=1777"},
		{"tmpfs", "etc/ppp", "tmpfs", 0, "mode=0755"},
		{kernelTag, filepath.Join(home, "kernel"), "9p", unix.MS_RDONLY, shared},
	} {
		on := filepath.Join("/", newRoot, m.on)
		if m.on == "dev/pts" || m.source == kernelTag {
			if err := os.MkdirAll(on, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.source, on, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, on, err)
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// switchRoot does what switch_root(8) does. The kernel's threads, which start modprobe,
// share process 1's root and follow it.
func switchRoot() error {
	if err := os.Chdir("/" + newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// findModules has the kernel load modules on demand from its own directory: the machine
// has other ones, or none.
func findModules() error {
	script := fmt.Sprintf("#!/bin/sh\nexec /sbin/modprobe -d %s/kernel \"$@\"\n", home)
	path := filepath.Join(home, "modprobe")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(path), 0)
}

// runGuest runs the guest's part, which reports by itself unless it dies.
func runGuest() {
	cmd := exec.Command(filepath.Join(home, "vmtest"), asGuest)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:" + home, "HOME=/", "LC_ALL=C", asScenes + "=" + os.Getenv(asScenes)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); err != nil && !(ok && exit.ExitCode() == 1) {
		report(fmt.Errorf("run guest: %w", err))
	}
}

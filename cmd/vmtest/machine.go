package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// machine is the virtual machine.
type machine struct {
	kernel  kernel
	program string // pptpalg
	accel   string // qemu's: tcg emulates and works everywhere; a kvm inside a virtual machine may hang
	scenes  string // a regular expression, "" for all
	root    string // a directory to be its root, under systemd; "" for that of this machine, read-only
}

// Tags of the file systems that the machine shares, read-only.
const (
	rootTag   = "root"   // its root
	kernelTag = "kernel" // the kernel's directory
)

// run boots and reads the console until the virtual machine is off, or killed.
func (m machine) run(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	dir, err := os.MkdirTemp("", "pptpalg-vm-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	initramfs := filepath.Join(dir, "initramfs")
	if err := m.initramfs(ctx, initramfs); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(initramfs)...)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no machine is left behind, however we end
	console, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	result := follow(console, os.Stdout)
	err = cmd.Wait()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no end within %v: qemu killed", within)
	}
	if err != nil {
		return fmt.Errorf("run qemu: %w", err)
	}
	return result
}

func (m machine) initramfs(ctx context.Context, path string) error {
	modules, err := m.kernel.modules(ctx, "virtio_pci", "9pnet_virtio", "9p")
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make initramfs: %w", err)
	}
	return errors.Join(writeInitramfs(f, m.program, modules), f.Close())
}

// arguments returns those of qemu.
func (m machine) arguments(initramfs string) []string {
	share := func(path, tag, readonly string) []string {
		return []string{"-virtfs", fmt.Sprintf("local,path=%s,mount_tag=%s,security_model=none,readonly=%s,multidevs=remap", path, tag, readonly)}
	}
	root, readonly, more := "/", "on", ""
	if m.scenes != "" {
		more = fmt.Sprintf(` %s="%s"`, asScenes, m.scenes) // the kernel knows quotes, and nothing else
	}
	if m.root != "" {
		root, readonly, more = m.root, "off", more+" systemd.show_status=no "+asFresh+"=1"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-accel", m.accel, "-cpu", "max", "-smp", "2", "-m", "1024",
		"-kernel", m.kernel.image(), "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off" + more,
	}
	args = append(args, share(root, rootTag, readonly)...)
	return append(args, share(m.kernel.dir, kernelTag, "on")...)
}

// follow copies the console line by line, but for the result, which it returns.
func follow(console io.Reader, w io.Writer) error {
	result := errors.New("the virtual machine ended without a result")
	for lines := bufio.NewScanner(console); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		said, ok := strings.CutPrefix(line, verdict)
		switch {
		case ok && said == "PASS":
			result = nil
		case ok:
			result = errors.New(strings.TrimPrefix(said, "FAIL "))
		default:
			fmt.Fprintln(w, line)
		}
	}
	return result
}

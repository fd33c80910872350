package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernel is Debian's, unpacked and not installed.
type kernel struct {
	dir     string // has boot and lib/modules
	release string // as uname -r prints it
}

func (k kernel) image() string { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }

// metaPackage depends on the package of the kernel that the release of Debian has at
// present.
const metaPackage = "linux-image-amd64"

var dependsOnKernel = regexp.MustCompile(`(?m)^Depends: .*\blinux-image-(\S+) \(= ([^)]+)\)`)

// findKernel returns the kernel kept in the cache, or downloads it.
func findKernel(ctx context.Context, cache string) (kernel, error) {
	release, version, err := currentKernel(ctx)
	if err != nil {
		if err := output(ctx, nil, "apt-get", "update", "-qq"); err != nil {
			return kernel{}, fmt.Errorf("find kernel: %w", err)
		}
		if release, version, err = currentKernel(ctx); err != nil {
			return kernel{}, fmt.Errorf("find kernel: %w", err)
		}
	}
	k := kernel{filepath.Join(cache, "linux-"+version+"+vrf"), release} // with vrf, as older caches are not
	if _, err := os.Stat(k.dir); err == nil {
		return k, nil
	}
	if err := k.fetch(ctx, version); err != nil {
		return kernel{}, fmt.Errorf("fetch kernel: %w", err)
	}
	return k, nil
}

// currentKernel asks apt's lists for the newest kernel.
func currentKernel(ctx context.Context) (release, version string, err error) {
	var text strings.Builder
	if err := output(ctx, &text, "apt-cache", "show", "--no-all-versions", metaPackage); err != nil {
		return "", "", err
	}
	m := dependsOnKernel.FindStringSubmatch(text.String())
	if m == nil {
		return "", "", errors.New("apt-cache names no kernel for " + metaPackage)
	}
	return m[1], m[2], nil
}

// fetch downloads and unpacks the package. The directory gets its name when it is
// complete.
func (k kernel) fetch(ctx context.Context, version string) error {
	if err := os.MkdirAll(filepath.Dir(k.dir), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(k.dir), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("downloading Debian's kernel %s to %s\n", version, k.dir)
	if err := download(ctx, dir, "linux-image-"+k.release+"="+version); err != nil {
		return err
	}
	if err := unpack(ctx, dir); err != nil {
		return err
	}
	if err := output(ctx, nil, "depmod", "-b", dir, k.release); err != nil {
		return err
	}
	return os.Rename(dir, k.dir)
}

// download gets a package into a directory. Where apt's lists are older than the
// archive, it brings them up to date and tries again.
func download(ctx context.Context, dir, name string) error {
	get := func() error {
		cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name)
		cmd.Dir = dir
		return run(cmd)
	}
	if get() == nil {
		return nil
	}
	if err := output(ctx, nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	return get()
}

// wanted is what the virtual machine needs of the package, a seventh of it.
const wanted = `dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --wildcards ` +
	`'./boot/vmlinuz-*' './lib/modules/*/modules.*' ` +
	`'./lib/modules/*/kernel/[acln]*' './lib/modules/*/kernel/fs/9p' './lib/modules/*/kernel/fs/netfs' './lib/modules/*/kernel/fs/fscache' ` +
	`'./lib/modules/*/kernel/drivers/virtio' './lib/modules/*/kernel/drivers/net/ppp' './lib/modules/*/kernel/drivers/net/slip' './lib/modules/*/kernel/drivers/net/veth.ko' './lib/modules/*/kernel/drivers/net/vrf.ko' ` +
	`&& rm linux-image-*.deb`

func unpack(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", wanted)
	cmd.Dir = dir
	return run(cmd)
}

// modules returns the files to load, in order, for the modules named to work.
func (k kernel) modules(ctx context.Context, names ...string) ([]string, error) {
	var files []string
	for _, name := range names {
		var text strings.Builder
		if err := output(ctx, &text, "modprobe", "-d", k.dir, "-S", k.release, "--show-depends", name); err != nil {
			return nil, err
		}
		for line := range strings.Lines(text.String()) {
			if words := strings.Fields(line); len(words) > 1 && words[0] == "insmod" {
				files = append(files, words[1])
			}
		}
	}
	return files, nil
}

// output runs a command and collects what it writes.
func output(ctx context.Context, stdout *strings.Builder, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if stdout != nil {
		cmd.Stdout = stdout
	}
	return run(cmd)
}

// run runs a command; its error carries what it wrote to stderr.
func run(cmd *exec.Cmd) error {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// archive writes an initramfs: a cpio archive in the "newc" form that the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst describes.
type archive struct {
	w     io.Writer
	inode int
	err   error // the first; nothing is written after it
}

// File types and permissions in an archive.
const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

// add writes an entry, padded to a multiple of four bytes after the name and after the
// content.
func (a *archive) add(name string, mode int, content []byte) {
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.write([]byte(header))
	a.write(content)
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(append(b[:len(b):len(b)], make([]byte, -len(b)&3)...))
	}
}

func (a *archive) addFile(name, path string) {
	content, err := os.ReadFile(path)
	if a.err == nil {
		a.err = err
	}
	a.add(name, modeFile, content)
}

// finish writes the end and returns the first error.
func (a *archive) finish() error {
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		return fmt.Errorf("write initramfs: %w", a.err)
	}
	return nil
}

// Where things are in the initramfs.
const (
	moduleDir = "modules" // files whose names are in the order in which to load them
	newRoot   = "newroot"
)

// writeInitramfs writes one with this very program as init, the program under test,
// and modules.
func writeInitramfs(w io.Writer, program string, modules []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	a := &archive{w: w}
	for _, dir := range []string{moduleDir, newRoot, "dev"} {
		a.add(dir, modeDir, nil)
	}
	a.addFile("init", self)
	a.addFile("pptpalg", program)
	for i, m := range modules {
		a.addFile(fmt.Sprintf("%s/%02d-%s", moduleDir, i, filepath.Base(m)), m)
	}
	return a.finish()
}

package main

import (
	"debug/elf"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// built is where make packages has put them.
var built = flag.String("built", "", "directory whose packages TestBuilt looks at; TestLifeOfOthers runs if it is named")

// readers list what is in a package and unpack it, by the package's own tool where Debian has
// it, for each end of a file's name.
var readers = map[string]struct {
	list, unpack []string // commands; the package comes behind list, package and directory behind unpack
	unit         string   // what starts the program there
}{
	".deb": {[]string{"dpkg-deb", "-c"}, []string{"dpkg-deb", "-x"}, "usr/lib/systemd/system/pptpalg.service"},
	".rpm": {[]string{"rpm", "-qlp"}, []string{"sh", "-c", `bsdtar -xf "$0" -C "$1"`}, "usr/lib/systemd/system/pptpalg.service"},
	".zst": {[]string{"pacman", "--config", "/dev/null", "-Qlp"}, []string{"sh", "-c", `bsdtar -xf "$0" -C "$1"`}, "usr/lib/systemd/system/pptpalg.service"},
	".apk": {[]string{"tar", "-tzf"}, []string{"sh", "-c", `tar -xzf "$0" -C "$1"`}, "etc/init.d/pptpalg"},
	".ipk": {
		[]string{"sh", "-c", `tar -xzOf "$0" ./data.tar.gz | tar -tz`},
		[]string{"sh", "-c", `tar -xzOf "$0" ./data.tar.gz | tar -xz -C "$1"`}, "etc/init.d/pptpalg",
	},
}

// emulators run programs for other machines.
var emulators = map[elf.Machine]string{elf.EM_AARCH64: "qemu-aarch64-static", elf.EM_ARM: "qemu-arm-static", elf.EM_MIPS: "qemu-mipsel-static"}

// TestBuilt lists and unpacks each package that was built, and runs its program: elsewhere
// than here in an emulator.
func TestBuilt(t *testing.T) {
	if *built == "" {
		return
	}
	looked := make(map[string]int)
	for end := range readers {
		names, err := filepath.Glob(filepath.Join(*built, "*"+end))
		must(t, err)
		for _, name := range names {
			looked[end]++
			t.Run(filepath.Base(name), func(t *testing.T) { wantPackage(t, name) })
		}
	}
	for end := range readers {
		if looked[end] == 0 {
			t.Errorf("no package ends in %s", end)
		}
	}
}

func wantPackage(t *testing.T, name string) {
	reader, dir := readers[filepath.Ext(name)], t.TempDir()
	list := command(t, append(reader.list, name)...)
	wantWords(t, list, []string{"usr/sbin/pptpalg\n", reader.unit + "\n", "etc/pptpalg/pptpalg.yaml\n"}, []string{"usr/local"})
	command(t, append(reader.unpack, name, dir)...)
	program := filepath.Join(dir, "usr/sbin/pptpalg")
	run := append(emulator(t, program), program)
	version := command(t, append(run, "version")...)
	if plain := strings.Fields(version); len(plain) < 2 || !strings.Contains(filepath.Base(name), ofFile(name, plain[1])) {
		t.Errorf("the program says %q", version)
	}
	help := command(t, append(run, "check", "--help")...)
	wantWords(t, help, []string{"Usage:"}, nil)
	capture := append(run, "replay", "../../testdata/hangup-lan.pcap", "--nat", "10.77.0.0/24=203.0.113.1")
	if filepath.Ext(name) == ".ipk" {
		wantSmall(t, run, capture)
	} else {
		wantWords(t, command(t, capture...), []string{"Outgoing-Call-Request", "7 → 255", "128"}, nil)
	}
	if filepath.Ext(name) == ".deb" {
		command(t, "lintian", "--allow-root", "--display-info", "--fail-on", "error,warning,info", name)
	}
	t.Logf("%s, %d files", strings.TrimSpace(version), strings.Count(list, "\n"))
}

// ofFile is how a package's name has a version.
func ofFile(name, version string) string {
	for _, f := range formats {
		if filepath.Ext(f.name) == filepath.Ext(name) {
			return f.version(version)
		}
	}
	return version
}

// emulator is what runs a program, nothing if that is this machine.
func emulator(t *testing.T, program string) []string {
	t.Helper()
	f, err := elf.Open(program)
	must(t, err)
	defer f.Close()
	if f.Machine == elf.EM_X86_64 && runtime.GOARCH == "amd64" {
		return nil
	}
	qemu := emulators[f.Machine]
	if qemu == "" {
		t.Fatalf("nothing runs programs for %v", f.Machine)
	}
	return []string{qemu}
}

// wantSmall wants a program without what small routers do not need, that says so. An emulator
// has no netlink, which the daemon opens before it listens.
func wantSmall(t *testing.T, run, capture []string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "web.yml")
	must(t, os.WriteFile(config, nil, 0o644))
	daemon := append(append([]string{"unshare", "--net"}, run...), "run", "--state-dir", t.TempDir(), "--rules", "none")
	refusals := map[string][]string{
		"built without replay":   capture,
		"built without clusters": append(slices.Clone(daemon), "--cluster", "etcd://127.0.0.1:1/pptpalg", "--cluster-insecure"),
	}
	if len(run) == 1 {
		refusals["built without web configurations"] = append(slices.Clone(daemon), "--listen", "127.0.0.1:0", "--web-config", config)
	}
	for want, args := range refusals {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, want %q: %s", args, err, want, out)
		}
	}
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := output(exec.CommandContext(t.Context(), args[0], args[1:]...))
	must(t, err)
	return string(out)
}

package main

import "strings"

// format is a kind of package.
type format struct {
	config  string // of nfpm, in deploy/package
	name    string // of a file: NAME-like text with VERSION and MACHINE in it
	version func(sortable string) string
	// machines are this format's own names; a machine that is not there goes by its own.
	machines map[string]string
}

// formats are those that nfpm writes. OpenWrt has dozens of names for machines, by
// processor, and a static program needs none of them: its package is for all, and refuses
// to be installed elsewhere (deploy/package/openwrt-preinst).
var formats = map[string]format{
	"deb": {"nfpm.yaml", "pptpalg_VERSION_MACHINE.deb", asItIs,
		map[string]string{"armv7": "armhf"}},
	"rpm": {"nfpm.yaml", "pptpalg-VERSION-1.MACHINE.rpm", asItIs,
		map[string]string{"amd64": "x86_64", "arm64": "aarch64", "armv7": "armv7hl"}},
	"archlinux": {"nfpm.yaml", "pptpalg-VERSION-1-MACHINE.pkg.tar.zst", pacmanVersion,
		map[string]string{"amd64": "x86_64", "arm64": "aarch64", "armv7": "armv7h"}},
	"apk": {"alpine.yaml", "pptpalg-VERSION-r0_MACHINE.apk", apkVersion,
		map[string]string{"amd64": "x86_64", "arm64": "aarch64"}},
	"ipk": {"openwrt.yaml", "pptpalg_VERSION_MACHINE.ipk", asItIs,
		map[string]string{"amd64": "x86_64", "arm64": "aarch64", "armv7": "arm", "mipsle": "mipsel"}},
}

// file is the name of a package.
func (f format) file(sortable, machine string) string {
	if name, ok := f.machines[machine]; ok {
		machine = name
	}
	return strings.NewReplacer("VERSION", f.version(sortable), "MACHINE", machine).Replace(f.name)
}

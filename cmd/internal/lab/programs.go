package lab

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// packages tells which Debian package brings a program.
var packages = map[string]string{
	"conntrack":        "conntrack",
	"etcd":             "etcd-server",
	"etcdctl":          "etcd-client",
	"ip":               "iproute2",
	"iptables":         "iptables",
	"iptables-restore": "iptables",
	"mount":            "mount",
	"pptp":             "pptp-linux",
	"pptpd":            "pptpd",
	"sh":               "dash",
	"tcpdump":          "tcpdump",
}

// Need reports whether the programs are installed; the error names the Debian
// packages to install.
func Need(programs ...string) error {
	var missing, install []string
	for _, p := range programs {
		if _, err := program(p); err == nil {
			continue
		}
		missing = append(missing, p)
		if !slices.Contains(install, packageOf(p)) {
			install = append(install, packageOf(p))
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("find %s: not installed (apt-get install %s)",
		strings.Join(missing, ", "), strings.Join(install, " "))
}

func packageOf(program string) string {
	if p, ok := packages[program]; ok {
		return p
	}
	return program
}

// program returns the path of a program. A root shell started by su may lack the
// sbin directories.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: not installed (apt-get install %s)", name, packageOf(name))
}

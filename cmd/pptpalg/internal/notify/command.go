package notify

import (
	"os"
	"path/filepath"
)

// managers are service managers other than systemd: what there is where they run, and what does something
// with the daemon there.
var managers = []struct{ sign, command string }{
	{"run/openrc/softlevel", "rc-service pptpalg "},
	{"sbin/procd", "/etc/init.d/pptpalg "}, // OpenWrt
}

// Command returns the command by which people have the service manager do something with the daemon: start,
// stop, restart or reload.
func Command(verb string) string { return commandIn("/", verb) }

func commandIn(root, verb string) string {
	for _, m := range managers {
		if _, err := os.Stat(filepath.Join(root, m.sign)); err == nil {
			return m.command + verb
		}
	}
	return "systemctl " + verb + " pptpalg"
}

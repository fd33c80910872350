package main

import (
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/lab"
)

// program is pptpalg.
const program = home + "/pptpalg"

// patience is for what takes moments on a machine: the virtual one is emulated, on cores
// that others use as well.
const patience = 30 * time.Second

// trial is one way to run the daemon, and what makes the calls.
type trial struct {
	dataPath, rules string
	callers         []caller // one for each inside host
}

var trials = []trial{
	{"kernel", "iptables", []caller{pptpLinux, pptpLinux}},
	{"queue", "iptables", []caller{pptpLinux, pptpKernel}},
	{"kernel", "auto", []caller{pptpKernel, pptpLinux}}, // which is nft here
	{"queue", "nft", []caller{pptpLinux, pptpLinux}},
}

// guest makes calls in every trial.
func guest() error {
	started := time.Now()
	if err := ready(); err != nil {
		return err
	}
	for _, tr := range trials {
		if err := tr.run(); err != nil {
			return fmt.Errorf("data path %s, rules of %s: %w", tr.dataPath, tr.rules, err)
		}
	}
	for _, tr := range trials {
		if err := tr.inVRF(); err != nil {
			return fmt.Errorf("data path %s, rules of %s: %w", tr.dataPath, tr.rules, err)
		}
	}
	fmt.Printf("guest: done in %.1f s\n", time.Since(started).Seconds())
	return nil
}

// ready looks for the programs, tells the kernel's version, and loads PPP: its device is
// there only then.
func ready() error {
	if err := lab.Need("pppd", "pptp", "pptpd", "iptables", "nft", "ip", "conntrack", "ping"); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("ask for kernel: %w", err)
	}
	fmt.Printf("guest: Linux %s\n", unix.ByteSliceToString(u.Release[:]))
	for _, module := range []string{"ppp_async", "ppp_mppe", "pptp", "vrf"} {
		if out, err := exec.Command(home+"/modprobe", module).CombinedOutput(); err != nil {
			return fmt.Errorf("load %s: %w: %s", module, err, out)
		}
	}
	return writeSecrets()
}

// poll asks until the condition holds. It asks seldom: in an emulated machine, asking
// takes from those who are to answer.
func poll(condition func() bool) error {
	for end := time.Now().Add(patience); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("poll for %v: %w", patience, lab.ErrTimeout)
		}
	}
	return nil
}

package ports

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/netns"
)

// place makes a network namespace that ends with the test, and runs a script in it.
func place(t *testing.T, script string) *netns.Place {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("PPTPALG_NO_SKIP") != "" {
			t.Fatal("not root, and PPTPALG_NO_SKIP is set")
		}
		t.Skip("needs root for network namespaces")
	}
	p, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	run(t, p, script)
	return p
}

// run runs a script.
func run(t *testing.T, p *netns.Place, script string) {
	t.Helper()
	do(t, p, func() error {
		if out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func do(t *testing.T, p *netns.Place, f func() error) {
	t.Helper()
	if err := p.Do(f); err != nil {
		t.Fatal(err)
	}
}

// chosen is what Choose returns in a namespace, by name.
func chosen(t *testing.T, p *netns.Place, mode Mode, only ...string) map[string]Port {
	t.Helper()
	all := make(map[string]Port)
	do(t, p, func() error {
		ports, err := Choose(mode, only)
		for _, port := range ports {
			all[port.Name] = port
		}
		return err
	})
	return all
}

// want compares ports as "xdp", "tc", "xdp tc" or "", and words of the reason.
func want(t *testing.T, got map[string]Port, name, how, why string) {
	t.Helper()
	p, ok := got[name]
	if !ok {
		t.Errorf("%s: not among the interfaces", name)
		return
	}
	if how != used(p) || !strings.Contains(p.Why, why) {
		t.Errorf("%s: got %q because %q, want %q because %q", name, used(p), p.Why, how, why)
	}
}

func used(p Port) string {
	var how []string
	if p.XDP {
		how = append(how, "xdp")
	}
	if p.TC {
		how = append(how, "tc")
	}
	return strings.Join(how, " ")
}

// Commands of SIOCETHTOOL (linux/ethtool.h).
const (
	setGRO  = 0x0000002c
	getFlag = 0x00000025
	setFlag = 0x00000026
	rxVLAN  = 1 << 8 // ETH_FLAG_RXVLAN
)

// ethtool sets a value of an interface, in the calling thread's namespace.
func ethtool(name string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	data := [2]uint32{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&data)}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errors.Join(fmt.Errorf("ethtool %s %#x", name, command), errno)
	}
	return nil
}

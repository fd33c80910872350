package lab

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SwitchGRO does what "ethtool -K name gro on" does. A veth then takes what XDP redirects to
// it.
func (h *Host) SwitchGRO(name string) error {
	return h.Do(func() error { return switchGRO(name) })
}

// struct ethtool_value { __u32 cmd; __u32 data; };                  // linux/ethtool.h
// struct ifreq { char ifr_name[IFNAMSIZ]; void *ifr_data; … };      // linux/if.h, 40 bytes
func switchGRO(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch GRO on: %w", err)
	}
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_SGRO, 1}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if err := unix.Close(fd); err != nil || errno != 0 {
		return fmt.Errorf("switch GRO on for %s: %w", name, errors.Join(errno, err))
	}
	return nil
}

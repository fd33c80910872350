package iptables

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/trial"
)

// TestKernelMultipath: of bare SYNs, those alone are queued that ask for Multipath TCP.
func TestKernelMultipath(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, _ := newGateway(t, command)
		q := gateway.listen(t)
		want := map[uint16]bool{} // by source port
		client.Do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := [4]byte{10, 0, 1, 1}
			for i, s := range trial.SYNs {
				want[uint16(40000+i)] = s.Wanted
				for _, port := range []uint16{1723, 1724} {
					if err := unix.Sendto(fd, trial.SYNPacket(i, [4]byte{10, 0, 1, 2}, to, port), 0, &unix.SockaddrInet4{Addr: to}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		settle(t, gateway, command, func(n map[string]int) bool { return n["in before"] >= len(trial.SYNs) })
		got := map[uint16]bool{}
		trial.Eventually(t, func() bool {
			for _, p := range q.packets() {
				if flags, _, _ := p.parts(); p.src().String() == "10.0.1.2" && flags&flagRST == 0 {
					got[binary.BigEndian.Uint16(p.data[20:])] = true
				}
			}
			n := 0
			for _, wanted := range want {
				if wanted {
					n++
				}
			}
			return len(got) >= n
		}, func() string { return fmt.Sprintf("queued %v", got) })
		for i, s := range trial.SYNs {
			if port := uint16(40000 + i); got[port] != s.Wanted {
				t.Errorf("%s: queued: %v, want %v", s.Name, got[port], s.Wanted)
			}
		}
	})
}

package rules

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// syns are segments to port 1723, by their TCP options and flags.
var syns = []struct {
	name    string
	options []byte
	flags   byte
	payload int
	wanted  bool
}{
	{"plain", nil, flagSYN, 0, false},
	{"as Linux sends it", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}, flagSYN, 0, false},
	{"with data", nil, flagSYN, 8, true},
	{"MP_CAPABLE", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7, 30, 4, 1, 1}, flagSYN, 0, true},
	{"MP_JOIN", []byte{30, 12, 0x10, 2, 1, 2, 3, 4, 5, 6, 7, 8}, flagSYN, 0, true},
	{"with ECN", []byte{30, 4, 1, 1}, flagSYN | 0xc0, 0, true},
	{"the kind is another option's content", []byte{8, 10, 30, 4, 1, 1, 30, 4, 1, 1, 1, 1}, flagSYN, 0, false},
	{"a pure ACK", []byte{30, 4, 0x20, 1}, flagACK, 0, false},
}

// synPacket crafts one of syns, for any port.
func synPacket(i int, src, dst [4]byte, port uint16) []byte {
	s := syns[i]
	p := segment{ip: 20, tcp: 20 + len(s.options), flags: s.flags, payload: s.payload}.packet(src, dst)
	copy(p[40:], s.options)
	binary.BigEndian.PutUint16(p[20:], uint16(40000+i))
	binary.BigEndian.PutUint16(p[22:], port)
	binary.BigEndian.PutUint32(p[24:], uint32(1000*i))
	tcp := p[20:]
	tcp[16], tcp[17] = 0, 0
	pseudo := slices.Concat(src[:], dst[:], []byte{0, 6, 0, byte(len(tcp))}, tcp)
	binary.BigEndian.PutUint16(tcp[16:], checksum(pseudo))
	return p
}

// TestKernelMultipath: of bare SYNs, those alone are queued that ask for Multipath TCP.
func TestKernelMultipath(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, _ := newGateway(t, command)
		q := gateway.listen(t)
		want := map[uint16]bool{} // by source port
		client.do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := [4]byte{10, 0, 1, 1}
			for i, s := range syns {
				want[uint16(40000+i)] = s.wanted
				for _, port := range []uint16{1723, 1724} {
					if err := unix.Sendto(fd, synPacket(i, [4]byte{10, 0, 1, 2}, to, port), 0, &unix.SockaddrInet4{Addr: to}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		settle(t, gateway, command, func(n map[string]int) bool { return n["in before"] >= len(syns) })
		got := map[uint16]bool{}
		eventually(t, func() bool {
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
		for i, s := range syns {
			if port := uint16(40000 + i); got[port] != s.wanted {
				t.Errorf("%s: queued: %v, want %v", s.name, got[port], s.wanted)
			}
		}
	})
}

// TestKernelNFTMultipath is the same for the nft rules.
func TestKernelNFTMultipath(t *testing.T) {
	needRoot(t)
	a, b := newNamespace(t), newNamespace(t)
	wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
	a.run(t, nftPredicate(), "nft", "-f", "-")
	for i, s := range syns {
		before := a.nftCounters(t)["match: matched"]
		a.do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			err = unix.Sendto(fd, synPacket(i, expectMatch, there, 1723), 0, &unix.SockaddrInet4{Addr: there})
			if err == unix.EPERM { // the chain's drop
				return nil
			}
			return err
		})
		if queued := a.nftCounters(t)["match: matched"] > before; queued != s.wanted {
			t.Errorf("%s: queued: %v, want %v", s.name, queued, s.wanted)
		}
	}
}

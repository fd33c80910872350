package nfqueue

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// grePacket is the i-th IPv4 packet with enhanced GRE that a test sends, of size bytes.
// A raw socket fills in the checksum.
func grePacket(i, size int) []byte {
	b := make([]byte, size)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_GRE
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:], []byte{10, 9, 0, byte(100 + i%16)})
	copy(b[16:], []byte{10, 9, 0, 2})
	g := b[20:]
	copy(g, []byte{0x30, 0x01, 0x88, 0x0b})
	binary.BigEndian.PutUint16(g[4:], uint16(size-32))
	binary.BigEndian.PutUint16(g[6:], uint16(i+1))
	return b
}

// sender sends GRE packets from the client, many with one system call.
type sender struct {
	fd      int
	headers [64]mmsghdr
	iovecs  [64]unix.Iovec
}

func newSender(t testing.TB, top topology, size int) *sender {
	t.Helper()
	top.gateway.sh(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0")
	s := &sender{}
	top.client.do(t, "open raw socket", func() (err error) {
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		return unix.Connect(s.fd, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 2}})
	})
	t.Cleanup(func() { unix.Close(s.fd) })
	for i := range s.headers {
		b := grePacket(i, size)
		s.iovecs[i].Base = &b[0]
		s.iovecs[i].SetLen(len(b))
		s.headers[i].hdr.Iov = &s.iovecs[i]
		s.headers[i].hdr.SetIovlen(1)
	}
	return s
}

// send sends n packets.
func (s *sender) send(t testing.TB, n int) {
	t.Helper()
	for n > 0 {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.headers)), uintptr(min(n, len(s.headers))), 0, 0, 0)
		if errno != 0 {
			t.Fatalf("send: %v", errno)
		}
		n -= int(sent)
	}
}

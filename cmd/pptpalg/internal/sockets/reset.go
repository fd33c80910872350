package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes of headers without options, and where their checksums are.
const (
	ipSize, tcpSize = 20, 20
	ipSum, tcpSum   = 10, 16
)

// SendReset sends a RST from one end of a TCP connection through this gateway to the other, in
// the sender's name: the kernel translates it as any packet of that connection. seq is the
// number of the byte that the receiver expects next. It needs CAP_NET_RAW.
func SendReset(src, dst netip.AddrPort, seq uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: dst.Addr().As4()}
	if err := unix.Sendto(fd, reset(src, dst, seq), 0, to); err != nil {
		return fmt.Errorf("send RST to %v: %w", dst, err)
	}
	return nil
}

// reset is the packet (RFC 791 section 3.1, RFC 9293 section 3.1).
func reset(src, dst netip.AddrPort, seq uint32) []byte {
	p := make([]byte, ipSize+tcpSize)
	ip, tcp := p[:ipSize], p[ipSize:]
	ip[0] = 4<<4 | ipSize/4 // version, header length
	binary.BigEndian.PutUint16(ip[2:], uint16(len(p)))
	ip[6] = 0x40 // don't fragment
	ip[8] = 64   // TTL
	ip[9] = unix.IPPROTO_TCP
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[ipSum:], ^sum(0, ip))
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12] = tcpSize / 4 << 4 // header length
	tcp[13] = 0x04             // RST
	pseudo := sum(unix.IPPROTO_TCP+tcpSize, ip[12:20])
	binary.BigEndian.PutUint16(tcp[tcpSum:], ^sum(uint32(pseudo), tcp))
	return p
}

// sum is the Internet checksum's sum of words, on top of another one (RFC 1071).
func sum(before uint32, words []byte) uint16 {
	for ; len(words) > 0; words = words[2:] {
		before += uint32(binary.BigEndian.Uint16(words))
	}
	for before > 0xffff {
		before = before>>16 + before&0xffff
	}
	return uint16(before)
}

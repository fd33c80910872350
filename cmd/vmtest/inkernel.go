package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// asCaller is the argument that makes the program do for pppd what pptp does, but for the
// GRE: that is the kernel's, whose module pptp sends and receives it.
const asCaller = "call"

// call makes a call to a server and has the kernel join it to the terminal on stdin, until
// a signal or the server ends it:
//
//	pppd ── terminal ── N_PPP, a channel ══ bridge ══ pptp.ko, a channel ── GRE
//
// With its plugin pptp.so, which Debian 12 has not, pppd uses pptp.ko's channel itself.
// The plugin leaves the Call ID to the kernel, which counts from 1; here it is chosen.
func call(server string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	defer stop()
	to, err := netip.ParseAddr(server)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	conn, err := net.Dial("tcp4", netip.AddrPortFrom(to, lab.Port).String())
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	control := lab.NewControl(conn.(*net.TCPConn))
	defer control.Close()
	if err := place(control, to); err != nil {
		return fmt.Errorf("call %v: %w", server, err)
	}
	go func() {
		answerEchoes(control)
		stop()
	}()
	<-ctx.Done()
	return nil
}

// answerEchoes returns with whatever else the server has to say: the call has ended then. An
// emulated machine is slow enough for the server to ask, which it does after a minute.
func answerEchoes(control *lab.Control) {
	for {
		m, err := control.Read(time.Hour)
		if err != nil || m.Type != lab.EchoRequest || control.Send(lab.NewEchoReply(m.Identifier, lab.ResultOK)) != nil {
			return
		}
	}
}

// place has the server grant a call, and joins it to the terminal. The kernel has its
// Call ID beforehand: the server's first packet comes with its reply.
func place(control *lab.Control, to netip.Addr) error {
	s, err := unix.Socket(unix.AF_PPPOX, unix.SOCK_STREAM, protoPPTP)
	if err != nil {
		return fmt.Errorf("open PPTP socket: %w", err)
	}
	from := control.Conn().LocalAddr().(*net.TCPAddr).AddrPort().Addr()
	if err := address(unix.SYS_BIND, s, callID, from); err != nil {
		return fmt.Errorf("bind Call ID %v: %w", callID, err)
	}
	if _, err := ask(control, lab.NewStartRequest(), lab.StartReply); err != nil {
		return err
	}
	reply, err := ask(control, lab.NewOutgoingCallRequest(callID), lab.OutgoingCallReply)
	if err != nil {
		return err
	}
	if err := address(unix.SYS_CONNECT, s, reply.CallID, to); err != nil {
		return fmt.Errorf("connect PPTP socket: %w", err)
	}
	return join(s)
}

// ask sends a request and wants a reply that grants it.
func ask(control *lab.Control, request lab.Message, want lab.Type) (lab.Message, error) {
	if err := control.Send(request); err != nil {
		return lab.Message{}, err
	}
	reply, err := control.Expect(want, patience)
	if err == nil && reply.Result != lab.ResultOK {
		err = &lab.Refusal{Reply: reply}
	}
	return reply, err
}

// protoPPTP is PX_PROTO_PPTP of linux/if_pppox.h.
const protoPPTP = 2

// address makes a system call on a PPTP socket that takes a struct sockaddr_pppox
// (linux/if_pppox.h, packed) in the machine's byte order, but for the address:
//
//	u16 family; u32 protocol; union { struct { u16 call_id; u16 padding; be32 address; }; 24 bytes };
func address(trap uintptr, socket int, id pptp.CallID, a netip.Addr) error {
	var b [30]byte
	binary.NativeEndian.PutUint16(b[0:], unix.AF_PPPOX)
	binary.NativeEndian.PutUint32(b[2:], protoPPTP)
	binary.NativeEndian.PutUint16(b[6:], uint16(id))
	copy(b[10:], a.AsSlice())
	if _, _, errno := unix.Syscall(trap, uintptr(socket), uintptr(unsafe.Pointer(&b)), uintptr(len(b))); errno != 0 {
		return errno
	}
	return nil
}

// disciplinePPP is N_PPP of linux/tty.h: what a terminal says is PPP, and a channel's.
const disciplinePPP = 3

// join makes a channel of the terminal on stdin, and a bridge from it to the socket's
// (since Linux 5.11). The file stays open for as long as the program runs.
func join(socket int) error {
	terminal := int(os.Stdin.Fd())
	if err := unix.IoctlSetPointerInt(terminal, unix.TIOCSETD, disciplinePPP); err != nil {
		return fmt.Errorf("set line discipline: %w", err)
	}
	from, err1 := unix.IoctlGetInt(terminal, unix.PPPIOCGCHAN)
	to, err2 := unix.IoctlGetInt(socket, unix.PPPIOCGCHAN)
	ppp, err3 := unix.Open("/dev/ppp", unix.O_RDWR, 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("find PPP channels: %w", err)
	}
	err := unix.IoctlSetPointerInt(ppp, unix.PPPIOCATTCHAN, from)
	if err == nil {
		err = unix.IoctlSetPointerInt(ppp, unix.PPPIOCBRIDGECHAN, to)
	}
	if err != nil {
		return fmt.Errorf("bridge PPP channels: %w", err)
	}
	return nil
}

// hide keeps the GRE that reaches pptp's host from pptp.ko. The module looks a packet's
// call up by Call ID and source alone, over all network namespaces (lookup_chan), and would
// take it for its own. It takes none that was not sent to its host alone (pptp_rcv), and
// pptp's socket takes those as well.
func (c *client) hide() error {
	if c.caller == pptpKernel {
		return nil
	}
	_, err := c.host.Run(context.Background(), "nft", strings.Join([]string{
		"add table ip vmtest",
		"add chain ip vmtest hide { type filter hook prerouting priority 0; }",
		"add rule ip vmtest hide ip protocol gre meta pkttype set broadcast",
	}, ";"))
	return err
}

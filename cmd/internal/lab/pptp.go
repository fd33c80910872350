package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// PPTP is Debian's pptp (pptp-linux) on a host, without pppd: the lab sends and
// receives its PPP packets. It is two processes, one for GRE and one for the
// control connection. It has one call, dials at once, and needs about a second
// until it forwards anything.
type PPTP struct {
	*Process
	Log *Log // what it wrote before its call was up

	line   *os.File // the lab's end of its standard input, which it also writes to
	frames *FrameReader
	dir    string
	over   bool // hung up: nothing is left to kill
}

// PPTPOptions says how a client runs.
type PPTPOptions struct {
	Server netip.Addr
	CallID *pptp.CallID // nil: the program draws one at random. 0 is impossible
	Echo   int          // seconds of silence after which it sends an Echo-Request, at least leastEcho; 0 for the program's minute
}

// leastEcho is more than the second for which pptp-linux waits before it dials. Its
// timer of silence also clears a call that is not answered when it rings
// (pptp_ctrl.c, pptp_handle_timer): with a second of silence, it rings while the program dials.
const leastEcho = 2

// private runs pptp with files of its own. A /run of its own, because clients of
// one server share a call manager there, even over network namespaces. And where
// a Call ID is wanted, a /dev/random of its own: pptp-linux takes the
// Call ID from its first two bytes (pptp_ctrl.c, randci), in host byte order; it
// takes two zero bytes for a failure and falls back on rand(3).
const private = `set -e
mount -t tmpfs tmpfs /run
if [ -n "$1" ]; then mount --bind "$1" /dev/random; fi
shift
exec "$@"
`

// StartPPTP starts a client and returns without waiting for its call; a pptpd's
// stand-in says hello when it is up.
func StartPPTP(h *Host, o PPTPOptions) (*PPTP, error) {
	if o.CallID != nil && *o.CallID == 0 {
		return nil, errors.New("start pptp: force Call ID: pptp-linux cannot have 0")
	}
	if o.Echo != 0 && o.Echo < leastEcho {
		return nil, fmt.Errorf("start pptp: Echo-Requests after %d s of silence: pptp-linux would clear its own calls before %d s", o.Echo, leastEcho)
	}
	if err := Need("pptp", "sh", "mount"); err != nil {
		return nil, fmt.Errorf("start pptp: %w", err)
	}
	dir, err := os.MkdirTemp(h.dir, "pptp-")
	if err != nil {
		return nil, fmt.Errorf("start pptp: make directory: %w", err)
	}
	p, err := startPPTP(h, o, dir)
	if err != nil {
		return nil, fmt.Errorf("start pptp: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	return p, nil
}

func startPPTP(h *Host, o PPTPOptions, dir string) (*PPTP, error) {
	random, err := randomFile(dir, o.CallID)
	if err != nil {
		return nil, err
	}
	path, err := program("pptp")
	if err != nil {
		return nil, err
	}
	args := []string{"-c", private, "sh", random, path, o.Server.String(), "--nolaunchpppd", "--nohostroute"}
	if o.Echo > 0 {
		args = append(args, "--idle-wait", strconv.Itoa(o.Echo))
	}
	cmd, err := h.Command(context.Background(), "sh", args...)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	return runPPTP(h, cmd, dir)
}

// randomFile returns "" where nothing is to be forced.
func randomFile(dir string, id *pptp.CallID) (string, error) {
	if id == nil {
		return "", nil
	}
	file := filepath.Join(dir, "random")
	if err := os.WriteFile(file, binary.NativeEndian.AppendUint16(nil, uint16(*id)), 0o644); err != nil {
		return "", fmt.Errorf("force Call ID: %w", err)
	}
	return file, nil
}

// runPPTP gives the program a socket as standard input, because it writes there
// what it received.
func runPPTP(h *Host, cmd *exec.Cmd, dir string) (*PPTP, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "pptp's line")
	defer theirs.Close()
	if err := unix.SetNonblock(fds[0], true); err != nil { // ours alone: deadlines need it
		return nil, errors.Join(fmt.Errorf("set non-blocking: %w", err), unix.Close(fds[0]))
	}
	ours := os.NewFile(uintptr(fds[0]), "line to pptp")
	log := new(Log)
	cmd.Stdin, cmd.Stderr = theirs, log
	process, err := h.Start(cmd)
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return &PPTP{Process: process, Log: log, line: ours, frames: NewFrameReader(ours), dir: dir}, nil
}

// Send sends a PPP packet of at least two bytes into the tunnel.
func (p *PPTP) Send(packet []byte) error {
	if _, err := p.line.Write(EncodeFrame(packet)); err != nil {
		return fmt.Errorf("send to pptp: %w", err)
	}
	return nil
}

// Recv returns the next PPP packet out of the tunnel. The error wraps
// os.ErrDeadlineExceeded, or io.EOF when the program has ended.
func (p *PPTP) Recv(within time.Duration) ([]byte, error) {
	if err := p.line.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, fmt.Errorf("receive from pptp: %w", err)
	}
	packet, err := p.frames.Next()
	if err != nil {
		return nil, fmt.Errorf("receive from pptp: %w", err)
	}
	return packet, nil
}

// RecvProof returns the next packet of that kind from a pptpd's stand-in; others
// are skipped.
func (p *PPTP) RecvProof(k Kind, within time.Duration) (Proof, error) {
	for end := time.Now().Add(within); ; {
		packet, err := p.Recv(time.Until(end))
		if err != nil {
			return Proof{}, fmt.Errorf("wait for %s: %w", k, err)
		}
		if proof, err := ParseProof(packet); err != nil || proof.Kind == k {
			return proof, err
		}
	}
}

// HangUp ends the call as pppd's end would, and waits until both processes are
// gone: the call manager sends Call-Clear-Request and gives the server a few
// seconds to answer.
func (p *PPTP) HangUp(within time.Duration) error {
	end := time.Now().Add(within)
	if err := p.line.Close(); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	if err := p.Wait(within); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	if err := Poll(time.Until(end), func() bool { return !groupAlive(p.PID()) }); err != nil {
		return fmt.Errorf("hang up: wait for call manager: %w", err)
	}
	p.over = true
	return os.RemoveAll(p.dir)
}

// groupAlive reports whether a process group has members that are more than
// zombies: nobody says when init will reap an orphan.
func groupAlive(group int) bool {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return false // the pattern is a constant
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		text := string(stat)
		f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(f) > 2 && f[0] != "Z" && f[2] == strconv.Itoa(group) {
			return true
		}
	}
	return false
}

// Close kills both processes; the server gets no Call-Clear, only the kernel's
// FIN or RST. After HangUp it does nothing.
func (p *PPTP) Close() error {
	if p.over {
		return nil
	}
	err := errors.Join(p.Kill(), os.RemoveAll(p.dir))
	if e := p.line.Close(); e != nil && !errors.Is(e, os.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

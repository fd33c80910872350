package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// callID is what both clients choose.
const callID pptp.CallID = 7

// users are the clients' names; all have the same password.
var users = []string{"alice", "bob"}

// mppeUp is what pppd logs when both ends have agreed on encryption.
const mppeUp = "MPPE 128-bit stateless compression enabled"

// mschap has a pppd accept nothing but MS-CHAPv2 with 128-bit MPPE; MPPE's keys come from
// MS-CHAPv2's.
const mschap = `refuse-eap
refuse-pap
refuse-chap
refuse-mschap
require-mppe-128
nobsdcomp
nodeflate
`

// writeSecrets writes what pppd reads at a fixed place. Both ends share it here.
func writeSecrets() error {
	var b strings.Builder
	for _, user := range users {
		fmt.Fprintf(&b, "%s * sesame *\n", user)
	}
	if err := os.WriteFile("/etc/ppp/chap-secrets", []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write secrets: %w", err)
	}
	return nil
}

// server is pptpd with pppd behind it.
type server struct {
	*lab.Process
	ppp string // pppd's log
}

const serverOptions = mschap + `name pptpd
auth
require-mschap-v2
logfile %s
`

const serverConf = `option %s
pidfile %s
localip %v
remoteip %s
`

// startServer starts one and waits until it listens.
func startServer(h *lab.Host, dir string) (*server, error) {
	s := &server{ppp: filepath.Join(dir, "server-ppp.log")}
	conf, options := filepath.Join(dir, "pptpd.conf"), filepath.Join(dir, "server-options")
	err := errors.Join(
		os.WriteFile(options, fmt.Appendf(nil, serverOptions, s.ppp), 0o644),
		os.WriteFile(conf, fmt.Appendf(nil, serverConf, options, filepath.Join(dir, "pptpd.pid"), serverInside, clientPool), 0o644))
	if err != nil {
		return nil, fmt.Errorf("configure pptpd: %w", err)
	}
	cmd, err := h.Command(context.Background(), "pptpd", "-f", "-c", conf)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if s.Process, err = h.Start(cmd); err != nil {
		return nil, err
	}
	if err := listening(h); err != nil {
		return nil, errors.Join(fmt.Errorf("start pptpd: %w", err), s.Close())
	}
	return s, nil
}

// listening waits for the port without connecting: pptpd serves nobody else until a new
// client has spoken. 06BB is the port, 0A the state LISTEN.
func listening(h *lab.Host) error {
	return poll(func() bool {
		var sockets []byte
		err := h.Do(func() (err error) {
			sockets, err = os.ReadFile("/proc/thread-self/net/tcp")
			return err
		})
		return err == nil && strings.Contains(string(sockets), " 00000000:06BB 00000000:0000 0A ")
	})
}

// said returns what pppd logged, of all calls.
func (s *server) said() string {
	b, err := os.ReadFile(s.ppp)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (s *server) Close() error { return s.Kill() }

// client is pppd with a caller at the other end of its terminal, and a look at the GRE
// that reaches its host.
type client struct {
	*lab.Process
	user   string
	caller caller
	host   *lab.Host
	log    *lab.Log
	gre    *lab.GRE
	addr   netip.Addr // inside the tunnel; invalid until it is up
}

// caller is what makes a client's call.
type caller string

const (
	pptpLinux  caller = "pptp"    // Debian's pptp-linux, with the GRE in its own hands
	pptpKernel caller = "pptp.ko" // the kernel's module: see call
)

// command has pppd start the caller. The kernel's clients share nothing that they should
// not.
func (c *client) command(serverAddr netip.Addr, random, options string) []string {
	args := []string{"file", options, "name", c.user, "pty"}
	if c.caller == pptpKernel {
		return append(append([]string{"pppd"}, args...), fmt.Sprintf("%s/vmtest %s %v", home, asCaller, serverAddr))
	}
	args = append(args, fmt.Sprintf("pptp %v --nolaunchpppd --nohostroute", serverAddr))
	return append([]string{"sh", "-c", private, "sh", random}, args...)
}

// private gives pppd and pptp a /run of their own, where clients of one server share a
// call manager even over network namespaces, and a /dev/random of their own, from whose
// first two bytes pptp takes its Call ID.
const private = `set -e
mount -t tmpfs tmpfs /run
mount --bind "$1" /dev/random
shift
exec pppd "$@"
`

// start has the client call a server; its files go into a directory.
func (c *client) start(serverAddr netip.Addr, dir string) error {
	random, options := filepath.Join(dir, "random"), filepath.Join(dir, "client-options")
	err := errors.Join(
		os.WriteFile(random, binary.NativeEndian.AppendUint16(nil, uint16(callID)), 0o644),
		os.WriteFile(options, []byte(mschap+"noauth\nnodetach\nnodefaultroute\n"), 0o644))
	if err != nil {
		return fmt.Errorf("configure pppd: %w", err)
	}
	words := c.command(serverAddr, random, options)
	cmd, err := c.host.Command(context.Background(), words[0], words[1:]...)
	if err != nil {
		return err
	}
	c.log = new(lab.Log)
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	cmd.Stdout, cmd.Stderr = c.log, c.log
	if c.gre, err = lab.OpenGRE(c.host, c.host.Addr); err != nil {
		return err
	}
	if c.Process, err = c.host.Start(cmd); err != nil {
		return errors.Join(err, c.gre.Close())
	}
	return nil
}

// localAddress is what pppd logs when IP is up.
var localAddress = regexp.MustCompile(`local  IP address (\S+)`)

// up waits until the tunnel is.
func (c *client) up() error {
	var m []string
	err := poll(func() bool {
		m = localAddress.FindStringSubmatch(c.log.String())
		return m != nil
	})
	if err != nil {
		return fmt.Errorf("wait for the tunnel of %s: %w\nits pppd said: %s", c.user, err, c.log)
	}
	c.addr, err = netip.ParseAddr(m[1])
	return err
}

// pings is how many a tunnel has to carry, there and back.
const pings = 20

// pattern fills the pings; it must not be seen on the wire.
const pattern = "pptpalg!"

func (c *client) ping() error {
	_, err := c.host.Run(context.Background(), "ping", "-n", "-q", "-c", strconv.Itoa(pings), "-i", "0.05",
		"-w", strconv.Itoa(int(patience/time.Second)), "-s", "1200", "-p", fmt.Sprintf("%x", pattern), serverInside.String())
	if err != nil {
		return fmt.Errorf("ping through the tunnel of %s: %w", c.user, err)
	}
	return nil
}

// wire looks at the GRE that has reached the host: all of it has its Call ID, and the
// answers to pings came encrypted. It returns the number of encrypted packets.
func (c *client) wire() (encrypted int, err error) {
	for _, p := range c.gre.Waiting() {
		switch {
		case p.CallID != callID:
			return 0, fmt.Errorf("look at the GRE of %s: a stranger's: %v", c.user, p)
		case strings.Contains(string(p.Payload), pattern):
			return 0, fmt.Errorf("look at the GRE of %s: a ping in clear: %v", c.user, p)
		case isEncrypted(p.Payload):
			encrypted++
		}
	}
	if encrypted < pings {
		return 0, fmt.Errorf("look at the GRE of %s: %d encrypted packets for %d pings", c.user, encrypted, pings)
	}
	return encrypted, nil
}

// isEncrypted reports whether a PPP packet is MPPE's: a compressed datagram, protocol
// 0x00fd (RFC 3078), with or without address and control field and leading zero.
func isEncrypted(packet []byte) bool {
	s := strings.TrimPrefix(string(packet), "\xff\x03")
	return strings.HasPrefix(strings.TrimPrefix(s, "\x00"), "\xfd")
}

// hangUp ends the call from the client's side.
func (c *client) hangUp() error {
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	// 5 is pppd's code for "ended by a signal".
	if err := c.Wait(patience); err != nil && !strings.Contains(err.Error(), "exit status 5") {
		return fmt.Errorf("hang up: %w: %s", err, c.log)
	}
	return nil
}

func (c *client) Close() error { return errors.Join(c.Kill(), c.gre.Close()) }

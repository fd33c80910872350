package fastpath

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/fastpath/ports"
)

// tun makes an interface without a link header, as ppp0 is, and returns its far end.
func tun(t *testing.T, r *rig) (*os.File, net.Interface) {
	t.Helper()
	var far *os.File
	var near net.Interface
	do(t, r.gateway, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("ppp9")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		far = os.NewFile(uintptr(fd), "tun") // not before: without an interface, Go takes it for broken
		i, err := net.InterfaceByName("ppp9")
		if err == nil {
			near = *i
		}
		return err
	})
	t.Cleanup(func() { far.Close() })
	// As with IPv6 its first packets would come by themselves, that is off in the rig.
	run(t, r.gateway, "ip link set ppp9 up mtu 1492; ip addr add 198.51.100.1 peer 198.51.100.2 dev ppp9; ip route add 198.51.100.10 dev ppp9")
	return far, near
}

// TestTunnel has a way out without link header: what comes out of the fast path on either
// side is what the kernel sends there.
func TestTunnel(t *testing.T) {
	for _, m := range modes[1:] {
		t.Run(m.name, func(t *testing.T) {
			r := newRig(t)
			far, near := tun(t, r)
			srv, pub := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("198.51.100.1")
			out := calls.Flow{Src: clients[0], Dst: srv, Key: 900, NewSrc: pub, NewDst: srv, NewKey: 900}
			in := calls.Flow{Src: srv, Dst: pub, Key: 777, NewSrc: srv, NewDst: clients[0], NewKey: 5}
			o := m.options(r)
			all := append(r.ports(m)[:1], ports.Port{Index: near.Index, Name: near.Name, TC: true})
			do(t, r.gateway, func() error { _, err := Load(all, o); return err })
			defer r.gateway.Do(func() error { return Unload(r.dir) })
			r.table = r.open(t)
			for _, f := range []calls.Flow{out, in} {
				if err := r.entries.Create(f); err != nil {
					t.Fatal(err)
				}
				if err := r.table.Install(f); err != nil {
					t.Fatal(err)
				}
			}
			p := r.packet(outward, 0)
			p.dst = srv
			q := packet{to: make([]byte, 6), from: make([]byte, 6), src: srv, dst: pub, key: 777, flags: 0x30, version: 1, protocol: 0x880b, ttl: 64, payload: 77}
			atFar := func() []byte {
				r.atClient.send(t, p.frame())
				return read(t, far)
			}
			atClient := func() []byte {
				if _, err := far.Write(q.frame()[14:]); err != nil {
					t.Fatal(err)
				}
				for end := time.Now().Add(patient); time.Now().Before(end); {
					if f := r.atClient.next(); f != nil && f[23] == unix.IPPROTO_GRE {
						return f
					}
				}
				t.Fatal("nothing arrives")
				return nil
			}
			for f, pass := range map[calls.Flow]func() []byte{out: atFar, in: atClient} {
				byKernel, carried := pass(), uint64(0)
				for end := time.Now().Add(patient); carried < 3; {
					if got := pass(); !bytes.Equal(got, byKernel) {
						t.Fatalf("fast path\n% x\nkernel\n% x", got, byKernel)
					}
					if time.Now().After(end) {
						t.Fatalf("%v: not learnt: %+v", f, r.table.Stats())
					}
					got, _ := r.table.Traffic(f)
					carried = got.Packets
				}
			}
		})
	}
}

// read returns the next packet of GRE that an interface sends.
func read(t *testing.T, far *os.File) []byte {
	t.Helper()
	if err := far.SetReadDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	for {
		n, err := far.Read(b)
		if err != nil {
			t.Fatal(fmt.Errorf("read the tunnel: %w", err))
		}
		if n > 28 && b[0] == 0x45 && b[9] == unix.IPPROTO_GRE {
			return b[:n]
		}
	}
}

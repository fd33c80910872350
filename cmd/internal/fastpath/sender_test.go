package fastpath

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

var stranger = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}

// TestSender has the gateway accept an address from one link address alone. Packets of the
// flow from another one are dropped, whatever is in force.
func TestSender(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		run(t, r.gateway, `nft add table ip bound
			nft add chain ip bound forward '{ type filter hook forward priority 0; }'
			nft add rule ip bound forward iifname lan ip protocol gre ether saddr != `+r.atClient.mac.String()+" drop")
		r.changed(t)
		r.learn(t, outward, 0, 100, 0)
		own, others := r.packet(outward, 0), r.packet(outward, 0)
		others.from = stranger
		if frames, fast := r.pass(t, outward, 0, others); len(frames) != 0 || fast {
			t.Errorf("another sender's: %d arrived, by the fast path: %v", len(frames), fast)
		}
		if r.table.Stats().Passed["elsewhere"] == 0 {
			t.Errorf("not counted: %+v", r.table.Stats())
		}
		if frames, fast := r.pass(t, outward, 0, own); len(frames) != 1 || !fast {
			t.Errorf("its sender's: %d arrived, by the fast path: %v", len(frames), fast)
		}
	})
}

// TestSenders has the packets of two senders in the kernel at once, and one sender's dropped
// there: what passes is never taken for the other one's.
func TestSenders(t *testing.T) {
	const some = 60
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		run(t, r.gateway, `nft add table ip bound
			nft add chain ip bound forward '{ type filter hook forward priority 0; }'
			nft add rule ip bound forward iifname lan ip protocol gre ether saddr != `+r.atClient.mac.String()+" drop")
		own, others := r.packet(outward, 0), r.packet(outward, 0)
		own.id, others.id, others.from = 1, 2, stranger
		x, _ := translationOf(flow(outward, 0))
		at := r.table.places.found(x)
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			r.changed(t)                         // so all are let go
			r.table.places.flows[at].Longest = 0 // as of a new flow
			sent := make(chan error, 1)
			go func() {
				var err error
				for i, frame := 0, others.frame(); i < some && err == nil; i++ {
					_, err = unix.Write(r.atClient.fd, frame)
				}
				sent <- err
			}()
			for range some {
				r.atClient.send(t, own.frame())
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			arrived := 0
			for _, f := range append(r.arrived(t, outward), r.arrived(t, outward)...) {
				if arrived++; f[19] != byte(own.id) {
					t.Fatalf("the packet of another sender arrived: %+v", r.table.Stats())
				}
			}
			if arrived != some {
				t.Fatalf("%d of %d arrived", arrived, some)
			}
		}
		r.learn(t, outward, 0, 100, 0) // now that the other one is silent
	})
}

// TestOtherSender: where both are allowed, the flow moves to the sender that sends.
func TestOtherSender(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		p := r.packet(outward, 0)
		p.from = stranger
		for end := time.Now().Add(patient); ; {
			frames, fast := r.pass(t, outward, 0, p)
			if len(frames) != 1 {
				t.Fatalf("%d arrived", len(frames))
			}
			if fast {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("not learnt: %+v", r.table.Stats())
			}
		}
	})
}

// TestOwnAddress: a packet that leaves with a link address that is not the port's is not
// learnt, and a port's new address is used as soon as the daemon knows it.
func TestOwnAddress(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		was, now := r.wan.HardwareAddr, net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
		address := func(mac net.HardwareAddr) {
			run(t, r.gateway, "ip link set wan address "+mac.String()+"; ip neigh replace 203.0.113.10 lladdr "+r.atServer.mac.String()+" nud permanent dev wan")
		}
		want := func(what string, mac net.HardwareAddr, wantFast bool) {
			t.Helper()
			frames, fast := r.pass(t, outward, 0, r.packet(outward, 0))
			if len(frames) != 1 || fast != wantFast || net.HardwareAddr(frames[0][6:12]).String() != mac.String() {
				t.Fatalf("%s: %d arrived, by the fast path: %v\n% x", what, len(frames), fast, frames)
			}
		}
		address(now)
		r.changed(t)
		for range 5 {
			want("nobody knows the address", now, false)
		}
		if r.table.Stats().Refused["altered"] == 0 {
			t.Errorf("not counted: %+v", r.table.Stats())
		}
		refresh := func(mac net.HardwareAddr) {
			if err := r.table.Refresh([]ports.Port{{Index: r.wan.Index, MAC: mac}}); err != nil {
				t.Fatal(err)
			}
		}
		refresh(now)
		r.learn(t, outward, 0, 100, 0)
		want("it is known", now, true)
		address(was)
		refresh(was)
		want("the next one", was, true)
	})
}

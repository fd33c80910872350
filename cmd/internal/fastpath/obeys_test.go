package fastpath

import (
	"net"
	"testing"
	"time"
)

// becomes sends packets until they arrive, or do not, and stay so for some.
func (r *rig) becomes(t *testing.T, direction int, arrive bool, p packet) {
	t.Helper()
	const some = 5
	from, to := r.taps(direction)
	alike := 0
	for end := time.Now().Add(patient); alike < some; {
		if time.Now().After(end) {
			t.Fatalf("%s: arrives: not %v: %+v", name(direction), arrive, r.table.Stats())
		}
		from.send(t, p.frame())
		n := 0
		for f := to.next(); f != nil; f = to.next() {
			n++
		}
		if alike++; (n > 0) != arrive {
			alike = 0
		}
	}
}

// TestObeys changes what the kernel does with a flow's packets.
func TestObeys(t *testing.T) {
	const drop = "FORWARD -p gre -j DROP"
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, 200*time.Millisecond)
		for _, d := range directions {
			p := r.packet(d, 0)
			// Nobody tells: obeyed when the decision expires.
			r.learn(t, d, 0, 100, 0)
			run(t, r.gateway, "iptables -w -I "+drop)
			r.becomes(t, d, false, p)
			run(t, r.gateway, "iptables -w -D "+drop)
			r.becomes(t, d, true, p)
			// Somebody tells: obeyed by the next packet.
			r.learn(t, d, 0, 100, 0)
			run(t, r.gateway, "iptables -w -I "+drop)
			r.changed(t)
			if frames, fast := r.pass(t, d, 0, p); len(frames) != 0 || fast {
				t.Errorf("%s: blocked and told: %d arrived, by the fast path: %v", name(d), len(frames), fast)
			}
			run(t, r.gateway, "iptables -w -D "+drop)
			if frames, _ := r.pass(t, d, 0, p); len(frames) != 1 {
				t.Errorf("%s: allowed: %d arrived", name(d), len(frames))
			}
			r.learn(t, d, 0, 100, 0)
		}
		t.Run("no route", func(t *testing.T) {
			r.learn(t, outward, 0, 100, 0)
			run(t, r.gateway, "ip route add blackhole 203.0.113.10")
			r.becomes(t, outward, false, r.packet(outward, 0))
			run(t, r.gateway, "ip route del blackhole 203.0.113.10")
			r.becomes(t, outward, true, r.packet(outward, 0))
			r.learn(t, outward, 0, 100, 0)
		})
		t.Run("no entry", func(t *testing.T) {
			r.learn(t, inward, 0, 100, 0)
			if err := r.entries.Delete(flow(inward, 0)); err != nil {
				t.Fatal(err)
			}
			r.becomes(t, inward, false, r.packet(inward, 0))
			if err := r.entries.Create(flow(inward, 0)); err != nil {
				t.Fatal(err)
			}
			r.learn(t, inward, 0, 100, 0)
			r.arrived(t, outward) // the gateway's ICMP errors about what had no entry
		})
		t.Run("a smaller MTU", func(t *testing.T) {
			p := r.packet(outward, 0)
			p.payload, p.fragment = 1390, 0x4000
			r.learn(t, outward, 0, 1390, 0)
			r.narrow(t, outward, 1300)
			defer r.narrow(t, outward, 1500)
			for end := time.Now().Add(patient); ; {
				if o := r.outcome(t, outward, p); o.back == "3/4" {
					return
				}
				if time.Now().After(end) {
					t.Fatal("no ICMP error comes")
				}
			}
		})
		t.Run("a neighbour with another address", func(t *testing.T) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
			r.learn(t, outward, 0, 100, 0)
			run(t, r.gateway, "ip neigh replace 203.0.113.10 lladdr "+mac.String()+" nud permanent dev wan")
			for end := time.Now().Add(patient); ; {
				frames, fast := r.pass(t, outward, 0, r.packet(outward, 0))
				if len(frames) != 1 || time.Now().After(end) {
					t.Fatalf("%d arrived", len(frames))
				}
				if fast && net.HardwareAddr(frames[0][:6]).String() == mac.String() {
					break
				}
			}
			run(t, r.gateway, "ip neigh replace 203.0.113.10 lladdr "+r.atServer.mac.String()+" nud permanent dev wan")
			r.becomes(t, outward, true, r.packet(outward, 0))
		})
		for name, rule := range map[string]string{
			"TOS": "-p gre -j TOS --set-tos 0x10", "TTL": "-p gre -j TTL --ttl-set 40", "DSCP": "-p gre -j DSCP --set-dscp 12",
		} {
			t.Run("a rule that alters "+name, func(t *testing.T) {
				run(t, r.gateway, "iptables -w -t mangle -A POSTROUTING "+rule)
				r.changed(t)
				for range 5 {
					if frames, fast := r.pass(t, outward, 0, r.packet(outward, 0)); len(frames) != 1 || fast {
						t.Errorf("%d arrived, by the fast path: %v", len(frames), fast)
					}
				}
				run(t, r.gateway, "iptables -w -t mangle -D POSTROUTING "+rule)
				r.learn(t, outward, 0, 100, 0)
			})
		}
		t.Run("a rule that alters DF", func(t *testing.T) {
			run(t, r.gateway, `nft add table ip cut
				nft add chain ip cut post '{ type filter hook postrouting priority mangle; }'
				nft add rule ip cut post ip protocol gre ip frag-off set 0`)
			r.changed(t)
			p := r.packet(outward, 0)
			p.fragment = 0x4000
			for range 5 {
				if frames, fast := r.pass(t, outward, 0, p); len(frames) != 1 || frames[0][20] != 0 || fast {
					t.Errorf("%d arrived, by the fast path: %v\n% x", len(frames), fast, frames)
				}
			}
			run(t, r.gateway, "nft delete table ip cut")
			r.learn(t, outward, 0, 100, 0)
		})
		if r.table.Stats().Refused["altered"] == 0 {
			t.Errorf("altered packets are not counted: %+v", r.table.Stats())
		}
	})
}

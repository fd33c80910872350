package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	oracle "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// Flows whose own key is 0: of a client that is known as 777 outside, and of a server.
var (
	toClient0 = flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0")
	toServer0 = flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0")
)

// outdated puts in an entry as an earlier release did.
func outdated(t *testing.T, c *Conn, f calls.Flow) {
	t.Helper()
	e := flowEntry(f)
	e.reply.zone = 0
	if err := c.exchange(createRequest(e), nil, nil); err != nil {
		t.Fatal(err)
	}
}

// TestOutdatedEntries: those of an earlier release count as the flow's own, and are made anew.
func TestOutdatedEntries(t *testing.T) {
	t.Run("recognised", func(t *testing.T) {
		c := newNamespace(t).dial(t)
		for _, f := range []calls.Flow{toClient0, toClient, with(toServer0, 7, 5)} {
			outdated(t, c, f)
			mustCreate(t, c, f)
			wantFlows(t, c, f)
			mustApply(t, c, changes(calls.Remove, f))
			wantFlows(t, c)
			outdated(t, c, f)
			mustDelete(t, c, f)
			wantFlows(t, c)
		}
	})
	t.Run("one entry for two flows", func(t *testing.T) {
		c := newNamespace(t).dial(t)
		outdated(t, c, toClient0)
		wantThere(t, c, []calls.Flow{toClient0, toServer0})
		mustApply(t, c, changes(calls.Install, toServer0, toClient0))
		wantFlows(t, c, toServer0, toClient0)
	})
	t.Run("renewed", func(t *testing.T) {
		ns := newNamespace(t)
		c := ns.dial(t)
		others := with(toServer0, 0, 5)
		others.Src = netip.MustParseAddr("10.0.0.9")
		all := []calls.Flow{with(toClient0, 0, 5), others, with(toClient0, 7, 0), toServer}
		for _, f := range all {
			outdated(t, c, f)
		}
		for _, want := range []int{1, 0} {
			n, err := c.Renew(func(f calls.Flow) bool { return f.Src != others.Src })
			if n != want || err != nil {
				t.Fatalf("Renew = %d, %v; want %d", n, err, want)
			}
			wantFlows(t, c, all...)
			if out := ns.run(t, "conntrack -L -p gre"); strings.Count(out, "zone-reply=65002") != 1 {
				t.Errorf("the table has\n%s\nwant one entry renewed", out)
			}
		}
	})
}

// TestNothingOutdated: who has listed all entries and met none of an earlier release need not
// look for such again.
func TestNothingOutdated(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	mustCreate(t, c, toClient0)
	mustCreate(t, c, toServer)
	renewed := func() (renewed int) {
		t.Helper()
		if _, err := c.Traffic(make(map[calls.Flow]calls.Traffic), nil); err != nil {
			t.Fatal(err)
		}
		n, err := c.Renew(func(calls.Flow) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := renewed(); n != 0 || !c.current {
		t.Errorf("%d renewed, current: %v", n, c.current)
	}
	mustDelete(t, c, toClient0)
	outdated(t, c, toClient0)
	if n := renewed(); n != 1 || c.current {
		t.Errorf("%d renewed, current: %v", n, c.current)
	}
	wantFlows(t, c, toClient0, toServer)
}

// TestKernelWithoutZones: one that refuses a zone gets entries without.
func TestKernelWithoutZones(t *testing.T) {
	sent := func(zoned bool, answer func(netlink.Message) []datagram) func(netlink.Message) []datagram {
		return func(m netlink.Message) []datagram {
			attribute := binary.BigEndian.AppendUint16([]byte{6, 0, ctaTupleZone, 0}, zoneTranslated)
			if bytes.Contains(m.Data, attribute) != zoned {
				t.Errorf("sent % x; want a zone: %v", m.Data, zoned)
			}
			return answer(m)
		}
	}
	refuse := says(unix.EOPNOTSUPP)
	c, k := openFake(t, sent(true, refuse), sent(true, refuse), sent(false, quiet), sent(false, quiet))
	mustApply(t, c, changes(calls.Install, toClient0))
	mustApply(t, c, changes(calls.Install, toServer0))
	if n, err := c.Renew(func(calls.Flow) bool { return true }); n != 0 || err != nil {
		t.Errorf("Renew = %d, %v; want nothing to do", n, err)
	}
	if len(k.scripts) != 0 {
		t.Errorf("%d scripts left, want 0", len(k.scripts))
	}
}

// sendTunnel sends a packet of plain GRE, version 0.
func (h greHost) sendTunnel(t *testing.T, to string, seq uint32) error {
	t.Helper()
	b := binary.BigEndian.AppendUint32([]byte{0, 0, 0x08, 0x00}, seq) // IPv4 inside
	return unix.Sendto(h.fd, b, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()})
}

// receiveTunnel takes packets until one of version 0 has that number, and returns its source.
func (h greHost) receiveTunnel(t *testing.T, seq uint32) (from string) {
	t.Helper()
	wait := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(h.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(h.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "nobody: " + err.Error()
		}
		if n == 28 && b[21] == 0 && binary.BigEndian.Uint32(b[24:]) == seq {
			return netip.AddrFrom4([4]byte(b[12:16])).String()
		}
	}
}

// tunnel is a plain GRE tunnel between two hosts: where each sends to, and as whom the other
// one sees it.
type tunnel struct {
	hosts    [2]greHost
	to, seen [2]string
	seq      uint32
}

// pass sends a packet each way.
func (u *tunnel) pass(t *testing.T, when string) {
	t.Helper()
	for i := range u.hosts {
		u.seq++
		if err := u.hosts[i].sendTunnel(t, u.to[i], u.seq); err != nil {
			t.Errorf("%s: the tunnel's packet to %s: %v", when, u.to[i], err)
		} else if from := u.hosts[1-i].receiveTunnel(t, u.seq); from != u.seen[i] {
			t.Errorf("%s: the tunnel's packet to %s comes from %s, want %s", when, u.to[i], from, u.seen[i])
		}
	}
}

// TestTunnels: a call whose ends have Call ID 0 and a tunnel of plain GRE between the same
// hosts, before, while and after the call lasts. The call's packets pass too.
func TestTunnels(t *testing.T) {
	const masquerade = "iptables -t nat -A POSTROUTING -o server -j MASQUERADE"
	atGateway := func(t *testing.T, n network) *tunnel {
		return &tunnel{
			hosts: [2]greHost{newGREHost(t, n.gateway), newGREHost(t, n.server)},
			to:    [2]string{serverAddr, publicAddr}, seen: [2]string{publicAddr, serverAddr},
		}
	}
	ofClient := func(t *testing.T, n network) *tunnel {
		return &tunnel{
			hosts: [2]greHost{newGREHost(t, n.client), newGREHost(t, n.server)},
			to:    [2]string{serverAddr, publicAddr}, seen: [2]string{publicAddr, serverAddr},
		}
	}
	// The host that is called is inside, and the tunnel may be the gateway's with the caller.
	toInside := func(own, cid pptp.CallID) []calls.Flow {
		in := flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0")
		out := flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0")
		in.NewKey, out.Key, out.NewKey = own, cid, cid
		return []calls.Flow{in, out}
	}
	for _, tt := range []struct {
		name   string
		rules  []string
		tunnel func(*testing.T, network) *tunnel
		late   bool // the tunnel begins while the call lasts
		flows  []calls.Flow
	}{
		{"the gateway's, server's ID 0", nil, atGateway, false, toInside(7, 0)},
		{"the gateway's, client's ID 0", nil, atGateway, false, toInside(0, 42)},
		{"the gateway's, both IDs 0", nil, atGateway, false, toInside(0, 0)},
		{"the gateway's, server's ID 0, later", nil, atGateway, true, toInside(7, 0)},
		{"the gateway's, both IDs 0, later", nil, atGateway, true, toInside(0, 0)},
		{"the client's, server's ID 0", nil, ofClient, false, toInside(7, 0)},
		{"the client's, client's ID 0", nil, ofClient, false, toInside(0, 42)},
		{"the client's, client's ID 0, later", nil, ofClient, true, toInside(0, 42)},
		{"the client's, both IDs 0", nil, ofClient, false, toInside(0, 0)},
		{"the client's with another host, both IDs 0, later", nil, func(t *testing.T, n network) *tunnel {
			const other = "192.0.2.9"
			n.server.run(t, "ip addr add "+other+"/24 dev gateway")
			u := ofClient(t, n)
			if err := unix.Bind(u.hosts[1].fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(other).As4()}); err != nil {
				t.Fatal(err)
			}
			u.to[0], u.seen[1] = other, other
			return u
		}, true, toInside(0, 0)},
		{"the inside server's by DNAT, IDs 0", []string{"iptables -t nat -A PREROUTING -i server -p gre -j DNAT --to-destination 10.0.0.2"}, func(t *testing.T, n network) *tunnel {
			u := ofClient(t, n)
			slices.Reverse(u.hosts[:])
			slices.Reverse(u.to[:])
			slices.Reverse(u.seen[:])
			return u
		}, false, toInside(0, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, append(tt.rules, masquerade)...)
			c := n.gateway.dial(t)
			u := tt.tunnel(t, n)
			if !tt.late {
				u.pass(t, "before the call")
			}
			for range 2 { // a second call finds what the first has left
				failed := c.Apply(changes(calls.Install, tt.flows...))
				for _, err := range failed {
					t.Error(err)
				}
				u.pass(t, "while the call lasts")
				callPasses(t, n, tt.flows)
				u.pass(t, "after the call carried GRE")
				wantThere(t, c, tt.flows)
				mustApply(t, c, changes(calls.Remove, tt.flows...))
				wantFlows(t, c)
				u.pass(t, "after the call")
			}
			if t.Failed() {
				t.Log(n.gateway.run(t, "conntrack -L"))
			}
		})
	}
}

// TestReplyKeySpreads: a reply key other than 0 in one entry of a client becomes the reply key of
// its other connections. So none is used: see "Own key 0" in the package's documentation.
func TestReplyKeySpreads(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	e := flowEntry(toServer0)
	e.reply.zone, e.reply.Dst = 0, netip.AddrPortFrom(e.reply.Dst.Addr(), 65002)
	if err := n.gateway.dial(t).exchange(createRequest(e), nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := newGREHost(t, n.client).sendTunnel(t, "192.0.2.9", 1); err != nil {
		t.Fatal(err)
	}
	poll(t, "the tunnel's entry", func() bool { return len(dumpOracle(t, n.gateway)) == 2 })
	const want = "src=192.0.2.9 dst=192.0.2.1 srckey=0x0 dstkey=0xfdea"
	if out := n.gateway.run(t, "conntrack -L -p gre"); !strings.Contains(out, want) {
		t.Errorf("the kernel has\n%s\nwant %s", out, want)
	}
}

// callPasses sends packets both ways of a call between client and server.
func callPasses(t *testing.T, n network, flows []calls.Flow) {
	t.Helper()
	client, server := newGREHost(t, n.client), newGREHost(t, n.server)
	for range 2 {
		pass(t, server, client, [2]packet{{"", publicAddr, flows[0].Key, 2}, {serverAddr, clientAddr, flows[0].NewKey, 2}})
		pass(t, client, server, [2]packet{{"", serverAddr, flows[1].Key, 1}, {publicAddr, serverAddr, flows[1].NewKey, 1}})
	}
}

// wantThere wants flows to be among those that need nothing, by a list and one by one.
func wantThere(t *testing.T, c *Conn, flows []calls.Flow) {
	t.Helper()
	listed, asked := make(map[calls.Flow]calls.Traffic), make(map[calls.Flow]calls.Traffic)
	_, err := c.Traffic(listed, nil)
	if err := errors.Join(err, c.StandingTraffic(asked, flows)); err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if _, there := listed[f]; !there {
			t.Errorf("%v is not listed", f)
		}
		if _, there := asked[f]; !there {
			t.Errorf("%v is not there", f)
		}
	}
}

// TestPlainCalls: the entries of a call that NAT does not touch stand side by side, whatever
// its IDs, and its packets are ESTABLISHED both ways.
func TestPlainCalls(t *testing.T) {
	for _, ids := range [][2]pptp.CallID{{7, 42}, {7, 7}, {0, 42}, {7, 0}, {0, 0}} {
		t.Run(fmt.Sprint(ids), func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, "iptables -P FORWARD DROP")
			n.gateway.run(t, "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT")
			n.server.run(t, "ip route add "+clientAddr+" via "+publicAddr)
			in := calls.Flow{
				Src: netip.MustParseAddr(serverAddr), Dst: netip.MustParseAddr(clientAddr), Key: ids[0],
				NewSrc: netip.MustParseAddr(serverAddr), NewDst: netip.MustParseAddr(clientAddr), NewKey: ids[0],
			}
			out := calls.Flow{Src: in.Dst, Dst: in.Src, Key: ids[1], NewSrc: in.Dst, NewDst: in.Src, NewKey: ids[1]}
			c := n.gateway.dial(t)
			client, server := newGREHost(t, n.client), newGREHost(t, n.server)
			for _, flows := range [][]calls.Flow{{in, out}, {out, in}} {
				mustApply(t, c, changes(calls.Install, flows...))
				wantFlows(t, c, in, out)
				pass(t, server, client, [2]packet{{"", clientAddr, ids[0], 1}, {serverAddr, clientAddr, ids[0], 1}})
				pass(t, client, server, [2]packet{{"", serverAddr, ids[1], 2}, {clientAddr, serverAddr, ids[1], 2}})
				mustApply(t, c, changes(calls.Remove, flows...))
				wantFlows(t, c)
			}
		})
	}
}

// TestTunnelsInTheWay: an entry of the tuple of a flow to Call ID 0, as the kernel makes one of
// a tunnel's packets. One that was answered is somebody's, and stays as it is.
func TestTunnelsInTheWay(t *testing.T) {
	const tuple = "conntrack -I -p gre -t 100 -s 10.0.0.2 -d 192.0.2.2 --srckey 0 --dstkey 0 --reply-key-src 0 --reply-key-dst 0"
	const back = "conntrack -I -p gre -t 100 -s 192.0.2.2 -d 192.0.2.1 --srckey 0 --dstkey 0 --reply-key-src 0 --reply-key-dst 0"
	for _, tt := range []struct {
		name  string
		inWay string
		flow  calls.Flow
		err   error
		there bool // the flow has an entry of its own then
		stays bool // what was in its way
		lent  bool
	}{
		{"translates as the flow would", tuple + " -n 192.0.2.1 -u SEEN_REPLY,ASSURED", toServer0, nil, false, true, true},
		{"that to the other end does", back + " -g 10.0.0.2 -u SEEN_REPLY,ASSURED", toServer0, nil, true, true, false},
		{"translates otherwise", tuple + " -n 192.0.2.9 -u SEEN_REPLY,ASSURED", toServer0, ErrTaken, false, true, false},
		{"translates nothing", tuple + " -u SEEN_REPLY,ASSURED", toServer0, ErrTaken, false, true, false},
		{"translates, and is unanswered", tuple + " -n 192.0.2.1", toServer0, nil, true, false, false},
		{"translates otherwise, and is unanswered", tuple + " -n 192.0.2.9", toServer0, nil, true, false, false},
		{"is in another's reply tuple", tuple + " -u SEEN_REPLY,ASSURED", toClient0, nil, true, true, false},
		{"is in another's reply tuple, and is unanswered", tuple, toClient0, nil, true, true, false},
		{"is in another zone", tuple + " -w 7 -u SEEN_REPLY,ASSURED", toServer0, nil, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, create := range map[string]func(*Conn, calls.Flow) error{
				"Create": (*Conn).Create,
				"Apply":  func(c *Conn, f calls.Flow) error { return c.Apply(changes(calls.Install, f))[0] },
			} {
				ns := newNamespace(t)
				c := ns.dial(t)
				ns.run(t, tt.inWay)
				before := dumpOracle(t, ns)[0].ID
				if err := create(c, tt.flow); !errors.Is(err, tt.err) || err == nil != (tt.err == nil) {
					t.Fatalf("%s: %v, want %v", name, err, tt.err)
				}
				there, err := c.Has(tt.flow)
				if there != tt.there || err != nil {
					t.Errorf("%s: Has = %v, %v; want %v", name, there, err, tt.there)
				}
				stays := slices.ContainsFunc(dumpOracle(t, ns), func(f oracle.Flow) bool { return f.ID == before && f.Timeout <= 100 })
				if stays != tt.stays {
					t.Errorf("%s: what was there stays: %v, want %v", name, stays, tt.stays)
				}
				have := make(map[calls.Flow]calls.Traffic)
				if _, err := c.Traffic(have, nil); err != nil {
					t.Fatal(err)
				}
				if have[tt.flow].Lent != tt.lent {
					t.Errorf("%s: lent: %v, want %v", name, have[tt.flow].Lent, tt.lent)
				}
				mustApply(t, c, changes(calls.Remove, tt.flow))
				left := slices.ContainsFunc(dumpOracle(t, ns), func(f oracle.Flow) bool { return f.ID == before && f.Timeout <= 100 })
				if left != tt.stays {
					t.Errorf("%s: what was there is left after the flow's end: %v, want %v", name, left, tt.stays)
				}
			}
		})
	}
}

// TestRenewUnderTraffic: while entries are made anew, packets pass that are translated by them, but
// for one that comes between an entry and its successor. What that leaves is cleared away.
func TestRenewUnderTraffic(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	c := n.gateway.dial(t)
	client, server := newGREHost(t, n.client), newGREHost(t, n.server)
	const rounds = 200
	came := 0
	for i := range uint32(rounds) {
		mustApply(t, c, changes(calls.Remove, toClient0))
		outdated(t, c, toClient0)
		done := make(chan error)
		go func() {
			_, err := c.Renew(func(calls.Flow) bool { return true })
			done <- err
		}()
		server.send(t, packet{Dst: publicAddr, Key: 777, Seq: i})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		server.send(t, packet{Dst: publicAddr, Key: 777, Seq: i + rounds})
		for got := (packet{}); got.Seq != i+rounds; came++ {
			var err error
			if got, err = client.receive(); err != nil {
				t.Fatalf("round %d: %v\n%s", i, err, n.gateway.run(t, "conntrack -L"))
			}
			if want := (packet{serverAddr, clientAddr, 0, got.Seq}); got != want {
				t.Fatalf("round %d: %+v, want %+v", i, got, want)
			}
		}
	}
	wantFlows(t, c, toClient0)
	if lost := 2*rounds - came; lost > rounds/10 {
		t.Errorf("%d of %d packets were lost that came in the instant", lost, rounds)
	}
}

// Two flows that leave alike, as when a client dials again under the Call ID that it had, carry
// both, and each ends by itself, whichever is made again.
func TestFlowsThatLeaveAlike(t *testing.T) {
	for _, key := range []string{"7", "0"} {
		t.Run("own key "+key, func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")
			c := n.gateway.dial(t)
			first, second, third := flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 "+key), flow("192.0.2.2 > 192.0.2.1 778 => 192.0.2.2 > 10.0.0.2 "+key), flow("192.0.2.2 > 192.0.2.1 779 => 192.0.2.2 > 10.0.0.2 "+key)
			back := flow("10.0.0.2 > 192.0.2.2 " + key + " => 192.0.2.1 > 192.0.2.2 " + key)
			for _, f := range []calls.Flow{first, back, second, third, first, second} {
				mustCreate(t, c, f)
			}
			wantFlows(t, c, first, second, third, back)
			if renewed, err := c.Renew(func(calls.Flow) bool { return true }); renewed != 0 || err != nil {
				t.Errorf("%d entries count as those of an earlier release: %v", renewed, err)
			}
			client, server := newGREHost(t, n.client), newGREHost(t, n.server)
			own := first.NewKey
			carries := func(keys ...pptp.CallID) {
				t.Helper()
				for _, k := range keys {
					pass(t, server, client, [2]packet{{"", publicAddr, k, 2}, {serverAddr, clientAddr, own, 2}})
				}
				pass(t, client, server, [2]packet{{"", serverAddr, own, 1}, {publicAddr, serverAddr, own, 1}})
			}
			carries(777, 778, 779)
			mustDelete(t, c, first)
			carries(778, 779)
			if errs := createAll(c, []calls.Flow{first, second}); len(errs) != 0 {
				t.Error(errs)
			}
			mustDelete(t, c, second)
			carries(777, 779)
			wantFlows(t, c, first, third, back)
			for _, f := range []calls.Flow{first, third, back} {
				mustDelete(t, c, f)
			}
			wantFlows(t, c)
		})
	}
}

// So do those of two clients to whom a server gives one Call ID.
func TestServersIDOfTwoClients(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	a, b := flow("10.0.0.2 > 192.0.2.2 42 => 192.0.2.1 > 192.0.2.2 42"), flow("10.0.0.3 > 192.0.2.2 42 => 192.0.2.1 > 192.0.2.2 42")
	for range 2 {
		mustCreate(t, c, a)
		mustCreate(t, c, b)
		wantFlows(t, c, a, b)
	}
	mustDelete(t, c, a)
	wantFlows(t, c, b)
}

package conntrack

import (
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

func TestProbe(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	mustCreate(t, c, toClient)
	for range 3 {
		if err := c.Probe(); err != nil {
			t.Fatal(err)
		}
		wantFlows(t, c, toClient)
		if n := len(dumpOracle(t, ns)); n != 1 {
			t.Fatalf("%d entries, want 1", n)
		}
	}
}

// prober plays a kernel to Probe: it takes entries, shows them and takes them out,
// but for one request.
type prober struct {
	fault int // the number of the request that is answered by
	by    func(*prober, netlink.Message) []datagram

	requests int
	last     calls.Flow
	entries  int
}

func (p *prober) answer(req netlink.Message) []datagram {
	if p.requests++; p.requests == p.fault {
		return p.by(p, req)
	}
	switch req.Header.Type {
	case msgNew:
		p.entries++
		e, err := decodeEntry(req.Data)
		if err != nil {
			panic(err)
		}
		key := pptp.CallID(e.orig.Dst.Port())
		p.last = probeFlows(key-1, key-1)[1]
		if e.natDst.IsValid() || e.orig.Src.Addr() != p.last.Src {
			p.last = probeFlows(key-1, key-1)[0]
		}
	case msgDelete:
		p.entries--
	case msgGet:
		if p.entries == 0 { // the question that opens a Conn
			return says(unix.ENOENT)(req)
		}
		return p.show(req, p.last)
	}
	return says(0)(req)
}

func (p *prober) show(req netlink.Message, f calls.Flow) []datagram {
	e := flowEntry(f)
	e.timeout = probeTimeout
	m := netlink.Message{Header: netlink.Header{Type: msgNew, Sequence: req.Header.Sequence}, Data: encodeShown(e)}
	return []datagram{{msgs: []netlink.Message{m}}}
}

func refuses(code unix.Errno) func(*prober, netlink.Message) []datagram {
	return func(_ *prober, req netlink.Message) []datagram { return says(code)(req) }
}

// Requests are: create, get, create, get, delete, delete.
func TestProbeAnswers(t *testing.T) {
	another := func(change func(*calls.Flow)) func(*prober, netlink.Message) []datagram {
		return func(p *prober, req netlink.Message) []datagram {
			f := p.last
			change(&f)
			return p.show(req, f)
		}
	}
	for _, tt := range []struct {
		name  string
		fault int
		by    func(*prober, netlink.Message) []datagram
		want  string // in the error; "" for none
		left  int
	}{
		{"all well", 0, nil, "", 0},
		{"no NAT", 1, refuses(unix.EOPNOTSUPP), "create: operation not supported", 0},
		{"the second refused", 3, refuses(unix.ENOMEM), "create: cannot allocate memory", 0},
		{"gone at once", 2, refuses(unix.ENOENT), "read back: no such conntrack entry", 0},
		{"key not translated", 2, another(func(f *calls.Flow) { f.NewKey = f.Key }), "the kernel has original", 0},
		{"address not translated", 4, another(func(f *calls.Flow) { f.NewSrc = f.Src }), "the kernel has original", 0},
		{"not deleted", 5, refuses(unix.EPERM), "delete the entry", 1},
		{"tuple taken, then not", 1, refuses(unix.EEXIST), "", 0},
		{"answer lost", 1, func(p *prober, _ netlink.Message) []datagram { return fails(unix.ENOBUFS)(netlink.Message{}) }, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &prober{fault: -1}
			c, err := open(func() (socket, error) { return &fakeSocket{answer: p.answer}, nil })
			if err != nil {
				t.Fatal(err)
			}
			p.requests, p.fault, p.by = 0, tt.fault, tt.by
			err = c.Probe()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Probe() = %v, want %q", err, tt.want)
			}
			if p.entries != tt.left {
				t.Errorf("%d entries left, want %d", p.entries, tt.left)
			}
		})
	}
}

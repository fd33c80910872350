package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// fakeSocket answers each request with datagrams that a test makes up.
type fakeSocket struct {
	answer func(netlink.Message) []datagram
	queue  []datagram
	sends  []int // messages in each datagram sent
	closed bool
}

// datagram is what one receive returns.
type datagram struct {
	msgs []netlink.Message
	err  error
}

func (s *fakeSocket) send(b []byte) error {
	ms, err := split(nil, bytes.Clone(b))
	if err != nil {
		return err
	}
	s.sends = append(s.sends, len(ms))
	for _, m := range ms {
		s.queue = append(s.queue, s.answer(m)...)
	}
	return nil
}

func (s *fakeSocket) receive() ([]netlink.Message, error) {
	if len(s.queue) == 0 {
		return nil, errors.New("the kernel would have nothing more to say")
	}
	d := s.queue[0]
	s.queue = s.queue[1:]
	return d.msgs, d.err
}

func (*fakeSocket) port() uint32 { return 0 }

func (s *fakeSocket) Close() error {
	s.closed = true
	return nil
}

// kernel plays the kernel to a Conn: the probe first, then one script for each
// further request, whatever socket it comes on.
type kernel struct {
	scripts [](func(netlink.Message) []datagram)
	sockets []*fakeSocket
	dialErr error
}

func (k *kernel) dial() (socket, error) {
	if k.dialErr != nil {
		return nil, k.dialErr
	}
	s := &fakeSocket{answer: k.next}
	k.sockets = append(k.sockets, s)
	return s, nil
}

func (k *kernel) next(m netlink.Message) []datagram {
	script := k.scripts[0]
	k.scripts = k.scripts[1:]
	return script(m)
}

func openFake(t *testing.T, scripts ...func(netlink.Message) []datagram) (*Conn, *kernel) {
	t.Helper()
	k := &kernel{scripts: append([]func(netlink.Message) []datagram{says(unix.ENOENT)}, scripts...)}
	c, err := open(k.dial)
	if err != nil {
		t.Fatal(err)
	}
	return c, k
}

// says ends an answer with an error number, 0 being success.
func says(code unix.Errno) func(netlink.Message) []datagram {
	return func(req netlink.Message) []datagram {
		return []datagram{{msgs: []netlink.Message{end(req, netlink.Error, code, 0)}}}
	}
}

func end(req netlink.Message, typ netlink.HeaderType, code unix.Errno, flags netlink.HeaderFlags) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: flags, Sequence: req.Header.Sequence},
		Data:   binary.NativeEndian.AppendUint32(nil, uint32(-int32(code))),
	}
}

// shows is an answer of entries, each in a datagram of its own, and the end of a
// dump. A question for one entry has it as its whole answer.
func shows(t *testing.T, flags netlink.HeaderFlags, flows ...calls.Flow) func(netlink.Message) []datagram {
	return func(req netlink.Message) (ds []datagram) {
		for _, f := range flows {
			m := netlink.Message{Data: encodeShown(flowEntry(f))}
			m.Header = netlink.Header{Type: msgNew, Flags: netlink.Multi, Sequence: req.Header.Sequence}
			ds = append(ds, datagram{msgs: []netlink.Message{m}})
		}
		if req.Header.Flags&netlink.Dump == 0 {
			return ds
		}
		return append(ds, datagram{msgs: []netlink.Message{end(req, netlink.Done, 0, netlink.Multi|flags)}})
	}
}

func fails(err error) func(netlink.Message) []datagram {
	return func(netlink.Message) []datagram { return []datagram{{err: err}} }
}

// stale answers a request that was never sent.
func stale(req netlink.Message) []datagram {
	req.Header.Sequence--
	return says(0)(req)
}

func TestOpenErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		dialErr error
		probe   unix.Errno
		want    string
	}{
		{"no netfilter netlink", unix.EPROTONOSUPPORT, 0, "CONFIG_NETFILTER_NETLINK"},
		{"no conntrack netlink", nil, unix.EINVAL, "CONFIG_NF_CT_NETLINK"},
		{"no rights", nil, unix.EPERM, "CAP_NET_ADMIN"},
		{"something else", nil, unix.EIO, "input/output error"},
	} {
		k := &kernel{dialErr: tt.dialErr, scripts: []func(netlink.Message) []datagram{says(tt.probe)}}
		c, err := open(k.dial)
		if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: open() = %v, %v; want an error with %q", tt.name, c, err, tt.want)
		}
		for _, s := range k.sockets {
			if !s.closed {
				t.Errorf("%s: socket left open", tt.name)
			}
		}
	}
}

func TestRetries(t *testing.T) {
	intr := netlink.DumpInterrupted
	for _, tt := range []struct {
		name    string
		scripts []func(netlink.Message) []datagram
		sockets int // 1 and one for each failure of a socket
		wantErr error
	}{
		{"at once", []func(netlink.Message) []datagram{shows(t, 0, toClient)}, 1, nil},
		{"interrupted", []func(netlink.Message) []datagram{shows(t, intr, toServer), shows(t, 0, toClient)}, 1, nil},
		{"no buffer", []func(netlink.Message) []datagram{fails(unix.ENOBUFS), shows(t, 0, toClient)}, 2, nil},
		{"no buffer, says the kernel", []func(netlink.Message) []datagram{says(unix.ENOBUFS), shows(t, 0, toClient)}, 1, nil},
		{"signal", []func(netlink.Message) []datagram{fails(unix.EINTR), shows(t, 0, toClient)}, 2, nil},
		{"stale answer", []func(netlink.Message) []datagram{stale, shows(t, 0, toClient)}, 2, nil},
		{"filter refused", []func(netlink.Message) []datagram{says(unix.EOPNOTSUPP), shows(t, 0, toClient)}, 1, nil},
		{"interrupted for ever", []func(netlink.Message) []datagram{shows(t, intr), shows(t, intr), shows(t, intr), shows(t, intr)}, 1, errInterrupted},
		{"a lasting error", []func(netlink.Message) []datagram{says(unix.EPERM)}, 1, unix.EPERM},
		{"a lasting error of the socket", []func(netlink.Message) []datagram{fails(unix.EIO)}, 2, unix.EIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, k := openFake(t, tt.scripts...)
			flows, err := c.Flows()
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Flows() = %v, %v; want error %v", flows, err, tt.wantErr)
			}
			if err == nil && (len(flows) != 1 || flows[0] != toClient) {
				t.Errorf("Flows() = %v, want %v", flows, toClient)
			}
			if len(k.scripts) != 0 || len(k.sockets) != tt.sockets {
				t.Errorf("%d scripts left, %d sockets; want 0, %d", len(k.scripts), len(k.sockets), tt.sockets)
			}
			for _, s := range k.sockets[:len(k.sockets)-1] {
				if !s.closed {
					t.Error("a socket that failed is left open")
				}
			}
		})
	}
}

func TestDumpDecodeError(t *testing.T) {
	c, _ := openFake(t, func(req netlink.Message) []datagram {
		bad := netlink.Message{Header: netlink.Header{Type: msgNew, Sequence: req.Header.Sequence}, Data: []byte{2, 0}}
		return append([]datagram{{msgs: []netlink.Message{bad}}}, shows(t, 0, toClient)(req)...)
	}, shows(t, 0, toClient))
	if _, err := c.Flows(); !errors.Is(err, errShort) {
		t.Errorf("Flows() = %v, want %v", err, errShort)
	}
	wantFlows(t, c, toClient) // the answer was read to its end
}

// A kernel that will not have the entry, and one in which it is always in the way.
func TestCreateGivesUp(t *testing.T) {
	c, _ := openFake(t, says(unix.EOPNOTSUPP))
	if err := c.Create(toClient); !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), toClient.String()) {
		t.Errorf("Create() = %v, want EOPNOTSUPP and the flow", err)
	}

	var scripts []func(netlink.Message) []datagram
	for range tries {
		scripts = append(scripts, says(unix.EEXIST), says(unix.ENOENT), says(unix.ENOENT)) // a create, and a question for each tuple
	}
	c, k := openFake(t, scripts...)
	if err := c.Create(toClient); !errors.Is(err, unix.EEXIST) {
		t.Errorf("Create() = %v, want EEXIST", err)
	}
	if len(k.scripts) != 0 {
		t.Errorf("%d scripts left, want 0", len(k.scripts))
	}
}

// An acknowledgement that was lost makes the request be sent again, which then
// finds its own work done.
func TestLostAcknowledgement(t *testing.T) {
	c, k := openFake(t,
		fails(unix.ENOBUFS), says(unix.EEXIST), // create, and again
		shows(t, 0, toClient),                                         // get
		shows(t, 0, toClient), fails(unix.ENOBUFS), says(unix.ENOENT)) // get, delete, and again
	mustCreate(t, c, toClient)
	mustDelete(t, c, toClient)
	if len(k.scripts) != 0 {
		t.Errorf("%d scripts left, want 0", len(k.scripts))
	}
}

func TestClose(t *testing.T) {
	c, k := openFake(t)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if !k.sockets[0].closed {
		t.Error("socket left open")
	}
	if err := c.Create(toClient); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Create() = %v, want net.ErrClosed", err)
	}
	if _, err := c.Flows(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Flows() = %v, want net.ErrClosed", err)
	}
	if len(k.sockets) != 1 {
		t.Error("a closed Conn dials again")
	}
}

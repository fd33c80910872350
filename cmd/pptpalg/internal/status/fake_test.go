package status

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// fake is a daemon that says what it is told to.
type fake struct {
	mu      sync.Mutex // guards what follows
	calls   []calls.View
	carried map[calls.Flow]calls.Traffic
	stuck   error
	started error
	looked  int           // times that the calls were asked for
	hold    chan struct{} // where it is not nil, the calls are told when it is closed

}

func newFake() *fake { return &fake{carried: make(map[calls.Flow]calls.Traffic)} }

func (f *fake) config() Config {
	return Config{
		Version: "v0.9.1", DataPath: "kernel", Gatherer: prometheus.NewRegistry(), Calls: f.views, Traffic: f.traffic,
		Healthy: func(time.Time) error { return f.says(&f.stuck) },
		Ready:   func(time.Time) error { return f.says(&f.started) },
	}
}

func (f *fake) says(err *error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *err
}

func (f *fake) views() []calls.View {
	f.mu.Lock()
	f.looked++
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]calls.View(nil), f.calls...)
}

func (f *fake) traffic() (map[calls.Flow]calls.Traffic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.carried == nil {
		return nil, errors.New("the kernel says no")
	}
	carried := make(map[calls.Flow]calls.Traffic, len(f.carried))
	for flow, t := range f.carried {
		carried[flow] = t
	}
	return carried, nil
}

// person is a call as a test draws it: an inside client calls a server.
type person struct {
	client, server    string
	own, public, peer pptp.CallID
	state             calls.State
	age               time.Duration
}

var public = netip.MustParseAddr("198.51.100.7")

// add adds a call.
func (f *fake) add(p person) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := uint64(len(f.calls) + 1)
	client, server := netip.MustParseAddr(p.client), netip.MustParseAddr(p.server)
	v := calls.View{
		Number: n, State: p.state, Since: time.Now().Add(-p.age),
		PNS:     calls.Party{Endpoint: calls.Endpoint{Address: client, Public: public}, Known: true, Own: p.own, Public: p.public},
		PAC:     calls.Party{Endpoint: calls.Endpoint{Address: server, Public: server}, Known: p.state != calls.Requested, Own: p.peer, Public: p.peer},
		Control: calls.Tuple{Src: netip.AddrPortFrom(client, uint16(1024+n)), Dst: netip.AddrPortFrom(server, 1723)},
	}
	v.Flows = []calls.Flow{{Src: server, Dst: public, Key: p.public, NewSrc: server, NewDst: client, NewKey: p.own}}
	if v.PAC.Known {
		v.Flows = append(v.Flows, calls.Flow{Src: client, Dst: server, Key: p.peer, NewSrc: public, NewDst: server, NewKey: p.peer})
	}
	f.calls = append(f.calls, v)
}

// carry has the flows of a call carry some more: bytes to the client and to the server.
func (f *fake) carry(call int, bytes ...uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, n := range bytes {
		if i >= len(f.calls[call].Flows) {
			return
		}
		flow := f.calls[call].Flows[i].Unmarked()
		t := f.carried[flow]
		f.carried[flow] = calls.Traffic{Counted: true, Bytes: t.Bytes + n, Packets: t.Packets + (n+899)/900}
	}
}

// crowd adds so many calls, as fast as that goes.
func (f *fake) crowd(n int) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, byte(64 + i>>16), byte(i >> 8), byte(i)})
		f.add(person{
			client: a.String(), server: fmt.Sprintf("203.0.113.%d", 10+i%4),
			own: pptp.CallID(i % 1000), public: pptp.CallID(i), peer: pptp.CallID(i/4 + 1),
			state: calls.Established, age: time.Duration(i) * time.Second,
		})
		f.carry(i, uint64(i)*1000, uint64(i)*100)
	}
}

func serve(t testing.TB, cfg Config) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(New(cfg))
	t.Cleanup(s.Close)
	return s
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// soakTime is how long TestSoak runs, a third of it over each data path and a third over the
// fast path: `make soak` gives it minutes.
var soakTime = flag.Duration("soak", 15*time.Second, "how long TestSoak runs")

// healing is how long a call may be silent after somebody flushed conntrack, or while
// TCP sends lost segments again.
const healing = 15 * time.Second

// forsaken is how long a server may keep the connection of a client that went while segments
// were lost: its keepalive asks after 15 s, TCP waits ever longer between two retransmissions,
// and conntrack forgets the connection 10 s later. If it forgets it before the server has asked,
// the daemon keeps it for two minutes.
const forsaken = 3 * time.Minute

// TestSoak has clients open, use, clear, crash and redial calls at random while the
// daemon is killed and restarted, conntrack is flushed, and segments are dropped and
// cut anew, and while two liars tell all lies. Whatever arrives, arrives at the right
// client; what should arrive does; and in the end memory, goroutines and kernel entries
// are what they were.
func TestSoak(t *testing.T) { overDataPathsInTurn(t, testSoak) }

func testSoak(t *testing.T, path datapath.Name) {
	const honest, liars = 8, 2
	network := masquerade(honest + liars)
	network.Outside += liars
	s := &soak{g: buildGateway(t, path, network), events: filepath.Join(t.TempDir(), "events.log")}
	s.start()
	g := s.g
	g.server(lab.Behaviour{Refuse: true})
	must(t, g.Outside[0].SetSysctl("net.ipv4.tcp_fastopen", fastOpen))
	s.honest = g.Inside[:honest]
	for i := range liars {
		s.liars = append(s.liars, newLiar(g, g.Inside[honest+i], g.Outside[1+i], wiretapOn(t, g.Outside[0])))
	}
	g.prepareLoss()
	s.round(t, *soakTime/6, s.violence, true)
	// A connection that ended in the moment of a flush was made again, and may be for a day.
	// One that has no entry when a daemon starts has ended.
	if path == datapath.Queue {
		pass(4 * time.Second) // the last flush must be dealt with, for this is taken for one else
	}
	g.kill()
	g.conntrack("-D", "-p", "tcp")
	s.start()
	_ = lab.Poll(healing, func() bool { return len(g.calls()) == 0 })
	g.wantCalls(0)

	// The second half spares the daemon's life, so that what it loses shows.
	before := g.footprint()
	tried, calls := s.tried.Load(), s.calls.Load()
	t.Logf("under violence: %v", s.unborn.take())
	s.round(t, *soakTime/6, s.trouble, false)
	tried, calls = s.tried.Load()-tried, s.calls.Load()-calls
	t.Logf("%d of %d calls were established while the daemon lived; the others: %v", calls, tried, s.unborn.take())
	if calls < tried*3/4 {
		t.Errorf("of %d calls that were dialled while the daemon lived, only %d were established", tried, calls)
	}
	// A liar's connection whose FIN lies behind a gap may last as long as conntrack's TIME_WAIT.
	if err := lab.Poll(forsaken, func() bool { return s.honestCalls() == 0 }); err != nil {
		for _, h := range s.honest {
			if s.callsOf(h) > 0 {
				t.Log(s.state(h))
			}
		}
		t.Errorf("%d calls of honest clients are left", s.honestCalls())
	}
	if len(g.calls()) == 0 {
		g.wantEntriesOfCalls(0)
	}
	// A daemon that was just started may not have all its goroutines yet, and one that serves a
	// request ends with its connection, a moment later.
	const few = 16
	after := g.footprint()
	_ = lab.Poll(lab.Patience, func() bool { after = g.footprint(); return after.goroutines <= before.goroutines+few })
	t.Logf("%d of %d calls, %d packets there and back, %d control connections broken by %d flushes; before %+v, after %+v", s.calls.Load(), s.tried.Load(), s.packets.Load(), s.broken.Load(), s.flushes.Load()/2, before, after)
	for _, l := range s.liars {
		t.Logf("%d lies", l.told.Load())
	}
	// A daemon that mends nothing loses every client's control connection at every flush.
	if most := s.flushes.Load() / 2 * honest * 7 / 8; s.broken.Load() > most {
		t.Errorf("%d control connections were broken by %d flushes", s.broken.Load(), s.flushes.Load()/2)
	}
	if after.goroutines > before.goroutines+few {
		t.Errorf("%d goroutines, %d before", after.goroutines, before.goroutines)
	}
	// The younger half of a heap that was just collected may be garbage, and history fills its
	// bounds meanwhile.
	const slack = 16 << 20
	if after.heap > before.heap+slack {
		t.Errorf("%d bytes of heap, %d before", after.heap, before.heap)
	}
}

// honestCalls returns how many calls the daemon has of clients that are no liars.
func (s *soak) honestCalls() (n int) {
	for _, h := range s.honest {
		n += s.callsOf(h)
	}
	return n
}

func (s *soak) callsOf(h *lab.Host) (n int) {
	for _, c := range s.g.calls() {
		if c.PNS.Address == h.Addr.String() {
			n++
		}
	}
	return n
}

type soak struct {
	g              *testGateway
	honest         []*lab.Host
	liars          []*liar
	events         string // file of the calls' events, of all daemons
	calls, packets atomic.Int64
	tried          atomic.Int64 // calls that were dialled
	unborn         reasons      // why others were not established
	flushes        atomic.Int64 // counted twice each
	deaths         atomic.Int64 // of daemons
	broken         atomic.Int64 // control connections that a flush broke, or a flush, a death and a lie together
	deadly         atomic.Bool  // daemons die in this round
	down           atomic.Bool  // no daemon edits
	outage         atomic.Int64 // for how long that was so, in all
}

func (s *soak) start() { s.g.start(append([]string{"--event-log", s.events}, liarsLimits...)...) }

// round runs clients under a kind of trouble until the time is over. deaths says that the
// daemon's is one.
func (s *soak) round(t *testing.T, length time.Duration, trouble func(), deaths bool) {
	t.Helper()
	s.deadly.Store(deaths)
	stop := make(chan struct{})
	failures := make(chan error, 1)
	fail := func(err error) {
		select {
		case failures <- err:
		default:
		}
	}
	var workers sync.WaitGroup
	for _, l := range s.liars {
		workers.Go(func() { l.tellAll(stop, deaths) })
	}
	for i, h := range s.honest {
		workers.Go(func() {
			for !closed(stop) {
				if err := s.live(h); err != nil {
					fail(fmt.Errorf("client %d: %w\n%s", i, err, s.state(h)))
					return
				}
			}
		})
	}
	began, said := time.Now(), time.Now()
	for time.Since(began) < length && len(failures) == 0 {
		trouble()
		if time.Since(said) >= 10*time.Second {
			said = time.Now()
			t.Logf("%v of %v: %d of %d calls established, %d packets there and back", time.Since(began).Round(time.Second), length, s.calls.Load(), s.tried.Load(), s.packets.Load())
		}
		for _, l := range s.liars {
			// Its server may have as many as its client.
			if n := l.calls(); n > 2*liarsCalls {
				fail(fmt.Errorf("a liar has %d calls, and may have %d\n%s", n, 2*liarsCalls, s.state(l.in)))
			}
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // trouble comes now and then
	}
	s.g.calm()
	close(stop)
	workers.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
}

// state is what the daemon and the kernel have of a client.
func (s *soak) state(h *lab.Host) string {
	var b strings.Builder
	calls, err := admin.Client{StateDir: s.g.state}.Calls(context.Background())
	fmt.Fprintf(&b, "%d calls, %v\n", len(calls), err)
	if report, err := (admin.Client{StateDir: s.g.state}).Explain(context.Background(), h.Addr); err == nil {
		_ = report.Text(&b)
	}
	for _, c := range calls {
		if c.PNS.Address == h.Addr.String() {
			fmt.Fprintf(&b, "%+v\n", c)
		}
	}
	s.writeEvents(&b, h)
	out, err := s.g.Gateway.Run(context.Background(), "conntrack", "-L", "-o", "extended,labels")
	for line := range strings.Lines(out.Stdout) {
		if strings.Contains(line, h.Addr.String()+" ") {
			b.WriteString(line)
		}
	}
	fmt.Fprintf(&b, "%v", err)
	return b.String()
}

// writeEvents writes the last events of a client's calls.
func (s *soak) writeEvents(b *strings.Builder, h *lab.Host) {
	const last = 12
	all, err := os.ReadFile(s.events)
	if err != nil {
		fmt.Fprintln(b, err)
	}
	var own []string
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, `"`+h.Addr.String()+`:`) {
			own = append(own, line)
		}
	}
	for _, line := range own[max(0, len(own)-last):] {
		b.WriteString(line)
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// violence is all of trouble, the daemon's death, and the loss of the whole table.
func (s *soak) violence() {
	switch rand.IntN(4) {
	case 0, 1:
		s.replace()
	case 2:
		s.flushes.Add(1)
		s.g.conntrack("-F")
		s.flushes.Add(1) // again: a call that begins in between is concerned too
	default:
		s.trouble()
	}
}

// replace kills the daemon and starts another one.
func (s *soak) replace() {
	began := time.Now()
	s.down.Store(true)
	s.deaths.Add(1)
	s.g.kill()
	s.start()
	s.outage.Add(int64(time.Since(began)))
	s.down.Store(false)
}

// trouble deletes entries, or changes how many segments are lost.
func (s *soak) trouble() {
	switch rand.IntN(8) {
	case 0, 1:
		s.g.conntrack("-D", "-p", "gre")
	case 2, 3:
		s.g.calm()
		s.g.lose("0.05")
	case 4:
		s.g.calm()
	}
}

// lossy are the chains in which the gateway loses segments: before and behind the queue.
var lossy = map[string]string{"raw": "PREROUTING", "mangle": "FORWARD"}

func (g *testGateway) prepareLoss() {
	g.t.Helper()
	for table, chain := range lossy {
		must(g.t, g.Gateway.IPTables(context.Background(), "-t", table, "-N", "LOSS"))
		must(g.t, g.Gateway.IPTables(context.Background(), "-t", table, "-I", chain, "-p", "tcp", "-j", "LOSS"))
	}
}

// lose has the gateway drop a share of control segments.
func (g *testGateway) lose(share string) {
	g.t.Helper()
	for table := range lossy {
		for _, port := range []string{"--dport", "--sport"} {
			must(g.t, g.Gateway.IPTables(context.Background(), "-t", table, "-A", "LOSS", "-p", "tcp", port, "1723",
				"-m", "statistic", "--mode", "random", "--probability", share, "-j", "DROP"))
		}
	}
}

// calm ends the loss of segments.
func (g *testGateway) calm() {
	g.t.Helper()
	for table := range lossy {
		must(g.t, g.Gateway.IPTables(context.Background(), "-t", table, "-F", "LOSS"))
	}
}

func (g *testGateway) conntrack(args ...string) {
	g.t.Helper()
	_, err := g.Gateway.Run(context.Background(), "conntrack", args...)
	if err != nil {
		g.t.Log(err) // nothing there to delete
	}
}

// live is one client's life: it dials, calls, exchanges packets and goes, in one of
// the ways that clients go. What fails before the call has carried a packet is the
// trouble's doing.
func (s *soak) live(h *lab.Host) error {
	flushes, deaths := s.flushes.Load(), s.deaths.Load()
	s.tried.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	c, err := lab.StartClient(ctx, h, s.g.Outside[0].Addr)
	if err != nil {
		return s.again("start", err)
	}
	defer c.Close()
	own := pptp.CallID(rand.IntN(4) * 7)
	call, err := c.Call(own)
	if err != nil {
		return s.again("call", err)
	}
	if err := s.first(call); err != nil {
		return s.again("first packet", err)
	}
	s.calls.Add(1)
	err = s.use(c, call, h.Name)
	switch {
	case errors.Is(err, errGivenUp):
		return nil
	case err != nil && s.flushes.Load() != flushes && (s.deaths.Load() != deaths || !alive(c)):
		s.broken.Add(1)
		return nil
	case err != nil:
		return err
	}
	switch rand.IntN(4) {
	case 0:
		return c.Reset()
	case 1:
		_ = call.Clear() // the connection ends in any case
	case 2:
		_ = c.Send(lab.NewCallClearRequest(own), lab.NewStopRequest())
	}
	return nil
}

// first exchanges a call's first packet. Where no daemon dies, that may take long.
func (s *soak) first(call *lab.Call) (err error) {
	for range 8 {
		if err = call.Exchange([]byte("first"), 300*time.Millisecond); err == nil || s.deadly.Load() {
			break
		}
	}
	return err
}

// reasons counts errors by what was tried.
type reasons struct {
	mu    sync.Mutex
	count map[string]int
}

func (r *reasons) add(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count = make(map[string]int)
	}
	r.count[what+": "+err.Error()]++
}

// take returns the counts, and begins anew.
func (r *reasons) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.count
	r.count = nil
	return was
}

// again notes why a call was not established, and waits a moment, as clients do.
func (s *soak) again(what string, err error) error {
	s.unborn.add(what, err)
	time.Sleep(100 * time.Millisecond)
	return nil
}

// errGivenUp says that a client lost patience with its control connection, on which too
// many segments were lost.
var errGivenUp = errors.New("the client gives up")

// use carries packets in a call, and now and then cuts a control message to pieces.
func (s *soak) use(c *lab.Client, call *lab.Call, client string) error {
	for range rand.IntN(60) {
		if err := s.carry(call, client); err != nil {
			return err
		}
		if rand.IntN(8) > 0 {
			continue
		}
		echo := lab.NewEchoRequest(rand.Uint32()).Bytes()
		send := func() error { return c.SendCut(echo, 1+rand.IntN(len(echo)-1)) }
		if rand.IntN(2) == 0 {
			send = func() error { return c.SendBytes(echo) }
		}
		if err := send(); errors.Is(err, lab.ErrTimeout) {
			return errGivenUp
		} else if err != nil {
			return fmt.Errorf("the control connection of a call is lost: %w", err)
		}
	}
	return nil
}

// alive reports whether a client's control connection works. A flush of conntrack
// breaks it if the server is the first to send a segment afterwards, before the
// daemon has made the entry again: the gateway takes it for its own, and answers RST.
func alive(c *lab.Client) bool {
	if c.Send(lab.NewEchoRequest(1)) != nil {
		return false
	}
	_, err := c.Expect(lab.EchoReply, lab.Patience)
	return err == nil
}

// carry exchanges a packet, again and again while the gateway heals. The time in which no
// daemon edits does not count: where machines are slow it is seconds.
func (s *soak) carry(call *lab.Call, client string) error {
	payload := fmt.Appendf(nil, "%s packet %d", client, s.packets.Add(1))
	began, outage := time.Now(), s.outage.Load()
	for {
		if err := call.Send(payload); err != nil {
			return err
		}
		switch got, err := call.Recv(250 * time.Millisecond); {
		case err == nil && string(got) == string(payload):
			return nil
		case err == nil && !strings.HasPrefix(string(got), client+" ") && string(got) != "first":
			return fmt.Errorf("call %v of %s received %q", call.Own, client, got)
		case err == nil: // an answer that was late
		case !errors.Is(err, lab.ErrTimeout):
			return err
		case !s.down.Load() && time.Since(began)-time.Duration(s.outage.Load()-outage) > healing:
			return fmt.Errorf("call %v, which was established: nothing arrives for %v", call.Own, healing)
		}
	}
}

// footprint is what the daemon uses. The heap is what was left by the last collection, which
// the next one's goal tells (GOGC): twice as much.
type footprint struct{ goroutines, heap int }

func (g *testGateway) footprint() footprint {
	g.t.Helper()
	return footprint{int(g.number("go_goroutines")), int(g.number("go_memstats_next_gc_bytes")) / 2}
}

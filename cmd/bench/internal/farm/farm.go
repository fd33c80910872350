package farm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// workers is how many clients are in their dialogues at a time: enough for the processors
// to be what limits every contender, not the waiting for an answer.
const workers = 200

// firstPort is the TCP port from which the held calls' connections begin. Each has
// a port of its own, which NAT then keeps.
const firstPort = 2000

// secondID is what the second call of a connection has more than the first one as its Call ID.
const secondID = 0x4000

// Call is a call that both ends have agreed on, and what each end knows of it.
type Call struct {
	Client, Server netip.Addr
	Public         netip.Addr  // the client as the server sees it
	Own, PublicID  pptp.CallID // the client's Call ID, as it chose it and as the server sees it
	ServerID       pptp.CallID
}

// Farm is the clients, on one host, and the server, on another.
type Farm struct {
	// Twice has each connection that Hold sets up place a second call, which Hold does not return.
	Twice bool

	clients, servers []netip.Addr
	client           *lab.Host
	listener         *net.TCPListener
	running          sync.WaitGroup // the server's goroutines

	mu    sync.Mutex // guards what follows
	conns map[*net.TCPConn]struct{}
	known map[key]known // of held calls
	held  []*os.File
	next  map[netip.Addr]pptp.CallID // the server's Call ID that was given last
}

// key tells a call by the server's end, known is what the server knows of it.
type key struct {
	server netip.Addr
	id     pptp.CallID
}

type known struct {
	remote netip.Addr
	peer   pptp.CallID
}

// Start starts the server. The addresses must be the hosts'; neither host may answer
// with RST what belongs to no socket any more. The caller must call Close.
func Start(client, server *lab.Host, clients, servers []netip.Addr) (*Farm, error) {
	l, err := server.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), lab.Port))
	if err != nil {
		return nil, fmt.Errorf("start farm: %w", err)
	}
	f := &Farm{
		clients: clients, servers: servers, client: client, listener: l,
		conns: make(map[*net.TCPConn]struct{}), known: make(map[key]known), next: make(map[netip.Addr]pptp.CallID),
	}
	f.running.Go(f.serve)
	return f, nil
}

// Hold sets calls up that stay up: their connections are neither closed nor reset.
// The sockets are gone when it returns, so that their number is no limit; a gateway sees
// connections on which nothing is said. from is how many calls the farm has held
// before: it says which client has which call.
func (f *Farm) Hold(from, n int) ([]Call, error) {
	calls := make([]Call, n)
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(workers)
	sockets := f.sockets(n, func(i int) netip.AddrPort {
		return netip.AddrPortFrom(f.clients[(from+i)%len(f.clients)], uint16(firstPort+from+i))
	})
	i := 0
	for batch := range sockets {
		if batch.err != nil {
			return nil, fmt.Errorf("hold calls: %w", errors.Join(batch.err, group.Wait()))
		}
		for _, fd := range batch.fds {
			number := i
			i++
			group.Go(func() (err error) {
				if ctx.Err() != nil {
					return unix.Close(fd) // another has failed, and this one would only take its time
				}
				calls[number], err = f.hold(fd, from+number)
				return err
			})
		}
	}
	if err := errors.Join(group.Wait(), f.vanish()); err != nil {
		return nil, fmt.Errorf("hold calls: %w", err)
	}
	return calls, nil
}

// vanish closes the sockets of held calls on either end without a packet.
func (f *Farm) vanish() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, held := range f.held {
		errs = append(errs, silence(held), held.Close())
	}
	f.held = nil
	for conn := range f.conns {
		errs = append(errs, silence(conn), conn.Close())
	}
	clear(f.conns)
	return errors.Join(errs...)
}

// silence has a connection say nothing when it is closed (TCP_REPAIR, tcp(7)).
func silence(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("silence connection: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1) })
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("silence connection: %w", err)
	}
	return nil
}

func (f *Farm) hold(fd int, number int) (Call, error) {
	c := newClient(fd)
	call := Call{
		Client: f.clients[number%len(f.clients)], Server: f.servers[number%len(f.servers)],
		Own: pptp.CallID(number/len(f.clients) + 1),
	}
	if err := c.setUp(call.Server, call.Own); err != nil {
		return Call{}, errors.Join(err, c.close())
	}
	peer := c.peer
	if f.Twice {
		if err := c.call(call.Own + secondID); err != nil {
			return Call{}, errors.Join(err, c.close())
		}
	}
	f.mu.Lock()
	f.held = append(f.held, c.file)
	f.mu.Unlock()
	return call, f.complete(&call, peer)
}

// Close closes every connection that is left, and waits for the server.
func (f *Farm) Close() error {
	err := f.listener.Close()
	f.mu.Lock()
	for conn := range f.conns {
		conn.Close() // nobody reads what an error would say
	}
	f.mu.Unlock()
	f.running.Wait()
	return err
}

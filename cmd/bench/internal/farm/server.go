package farm

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"

	"pptpalg/alg/pptp"
)

// serve accepts connections until the listener is closed.
func (f *Farm) serve() {
	for {
		conn, err := f.listener.AcceptTCP()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[conn] = struct{}{}
		f.mu.Unlock()
		f.running.Go(func() { f.answer(conn) })
	}
}

// answer answers one client until it closes. Message types are RFC 2637's.
func (f *Farm) answer(conn *net.TCPConn) {
	defer func() {
		conn.Close()
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
	}()
	s := session{farm: f, server: address(conn.LocalAddr()), remote: address(conn.RemoteAddr())}
	for {
		reply, err := s.next(conn)
		if err != nil {
			return
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

func address(a net.Addr) netip.Addr { return a.(*net.TCPAddr).AddrPort().Addr().Unmap() }

// session is the server's side of a control connection.
type session struct {
	farm           *Farm
	server, remote netip.Addr
	own            pptp.CallID // of the last call
	buf            [256]byte
}

// next reads a message and returns the answer, which is valid until it is called
// again.
func (s *session) next(r io.Reader) ([]byte, error) {
	if _, err := io.ReadFull(r, s.buf[:2]); err != nil {
		return nil, err
	}
	n := min(int(binary.BigEndian.Uint16(s.buf[:])), len(s.buf))
	if n < offID {
		return nil, io.ErrUnexpectedEOF
	}
	if _, err := io.ReadFull(r, s.buf[2:n]); err != nil {
		return nil, err
	}
	switch s.buf[offType+1] {
	case startRequest[offType+1]:
		return startReply, nil
	case callRequest[offType+1]:
		return s.grant(id(s.buf[offID:])), nil
	case clearRequest[offType+1]:
		s.farm.forget(key{s.server, s.own})
		return withID(s.buf[:0], notify, s.own), nil
	case echoRequest[offType+1]:
		return echoReply, nil
	}
	return nil, io.ErrUnexpectedEOF
}

func (s *session) grant(peer pptp.CallID) []byte {
	s.own = s.farm.give(s.server, known{s.remote, peer})
	reply := withID(s.buf[:0], callReply, s.own)
	binary.BigEndian.PutUint16(reply[offPeer:], uint16(peer))
	return reply
}

// give gives the next Call ID of a server to a call. A freed one is given again
// after 65535 others.
func (f *Farm) give(server netip.Addr, k known) pptp.CallID {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		f.next[server]++
		own := f.next[server]
		if _, taken := f.known[key{server, own}]; own != 0 && !taken {
			f.known[key{server, own}] = k
			return own
		}
	}
}

func (f *Farm) forget(k key) {
	f.mu.Lock()
	delete(f.known, k)
	f.mu.Unlock()
}

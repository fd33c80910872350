package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long the peers of a test wait for an answer that should come. It costs
// nothing where the answer comes, and a loaded machine may need it.
const Patience = 15 * time.Second

// Write is a way to write bytes to a control connection: Control's own methods
// SendRaw, SendBytes and SendNagle are ways, as method expressions.
type Write func(c *Control, b []byte) error

// Control is one end of a control connection. One goroutine may read while
// another sends.
type Control struct {
	Write Write // how Send writes; nil is SendRaw

	conn *net.TCPConn
}

// NewControl takes over a connection.
func NewControl(conn *net.TCPConn) *Control { return &Control{conn: conn} }

// Conn returns the connection, for what Control has no method for.
func (c *Control) Conn() *net.TCPConn { return c.conn }

// Send writes messages back to back in one write, hence usually in one segment,
// unless c.Write says otherwise.
func (c *Control) Send(messages ...Message) error {
	var b []byte
	for _, m := range messages {
		b = append(b, m.Bytes()...)
	}
	if c.Write != nil {
		return c.Write(c, b)
	}
	return c.SendRaw(b)
}

// SendRaw writes bytes that need not be messages.
func (c *Control) SendRaw(b []byte) error {
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// SendCut writes b in pieces, a new TCP segment beginning at every cut: an offset
// into b, ascending. Each piece waits until the one before has left, because the
// kernel merges what is still unsent.
func (c *Control) SendCut(b []byte, cuts ...int) error {
	if err := c.conn.SetNoDelay(true); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	from := 0
	for _, to := range append(cuts[:len(cuts):len(cuts)], len(b)) {
		if err := c.SendRaw(b[from:to]); err != nil {
			return err
		}
		if err := c.flushed(); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// SendBytes writes one byte per segment.
func (c *Control) SendBytes(b []byte) error {
	var cuts []int
	for i := 1; i < len(b); i++ {
		cuts = append(cuts, i)
	}
	return c.SendCut(b, cuts...)
}

// SendNagle writes byte by byte with Nagle's algorithm on: the first byte travels
// alone, and the rest only after it is acknowledged. An editor that holds the
// byte back waits for ever.
func (c *Control) SendNagle(b []byte) error {
	if err := c.conn.SetNoDelay(false); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for i := range b {
		if err := c.SendRaw(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// flushed waits until every byte was sent at least once; acknowledged is more
// than that.
func (c *Control) flushed() error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	var failed error
	err = Poll(Patience, func() bool {
		unsent := 0
		ask := func(fd uintptr) { unsent, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) }
		return raw.Control(ask) != nil || failed != nil || unsent == 0
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// ReadBytes reads exactly n bytes.
func (c *Control) ReadBytes(n int, within time.Duration) ([]byte, error) {
	if err := c.conn.SetReadDeadline(deadline(within)); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	b := make([]byte, n)
	if got, err := io.ReadFull(c.conn, b); err != nil {
		return b[:got], fmt.Errorf("read %d bytes: got %d: %w", n, got, err)
	}
	return b, nil
}

// forever is for peers that wait until their connection ends.
const forever time.Duration = -1

func deadline(within time.Duration) time.Time {
	if within == forever {
		return time.Time{}
	}
	return time.Now().Add(within)
}

// Read reads the next message. The error wraps io.EOF where the peer has closed,
// and os.ErrDeadlineExceeded where nothing came in time.
func (c *Control) Read(within time.Duration) (Message, error) {
	header, err := c.ReadBytes(headerSize, within)
	if err != nil {
		return Message{}, err
	}
	size, err := messageSize(header)
	if err != nil {
		return Message{}, err
	}
	rest, err := c.ReadBytes(size-headerSize, within)
	if err != nil {
		return Message{}, err
	}
	return ParseMessage(append(header, rest...))
}

// Expect reads the next message, which must be of that type.
func (c *Control) Expect(t Type, within time.Duration) (Message, error) {
	m, err := c.Read(within)
	if err != nil {
		return Message{}, fmt.Errorf("expect %v: %w", t, err)
	}
	if m.Type != t {
		return m, fmt.Errorf("expect %v: got %v", t, m)
	}
	return m, nil
}

// ExpectEnd reads until the peer closes, by FIN or RST, and returns the messages
// that came before.
func (c *Control) ExpectEnd(within time.Duration) ([]Message, error) {
	var before []Message
	for end := time.Now().Add(within); ; {
		m, err := c.Read(time.Until(end))
		switch {
		case err == nil:
			before = append(before, m)
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
			return before, nil
		default:
			return before, fmt.Errorf("expect end of connection: %w", err)
		}
	}
}

// CloseWrite sends FIN and keeps reading possible.
func (c *Control) CloseWrite() error { return c.conn.CloseWrite() }

const drainTime = 100 * time.Millisecond

// Close ends the connection by FIN. It reads away what is left first, for a
// socket closed with unread data sends RST.
func (c *Control) Close() error {
	if err := c.CloseWrite(); err == nil && c.conn.SetReadDeadline(time.Now().Add(drainTime)) == nil {
		io.Copy(io.Discard, c.conn) // the peer may be slow to close, or gone: both are well
	}
	return c.conn.Close()
}

// Reset ends the connection by RST.
func (c *Control) Reset() error {
	if err := c.conn.SetLinger(0); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	return c.conn.Close()
}

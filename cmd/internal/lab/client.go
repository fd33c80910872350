package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"pptpalg/alg/pptp"
)

// Port is the TCP port of PPTP control connections.
const Port = 1723

// Client is an ordinary PPTP client that does as it is told: it has whatever
// Call IDs the test wants, and as many calls.
type Client struct {
	*Control
	GRE    *GRE
	Host   *Host
	Server netip.Addr // as the client sees it
}

// StartClient dials a server from a host and exchanges Start messages.
func StartClient(ctx context.Context, h *Host, server netip.Addr) (*Client, error) {
	g, err := OpenGRE(h, h.Addr)
	if err != nil {
		return nil, fmt.Errorf("start client: %w", err)
	}
	conn, err := h.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(server, Port))
	if err != nil {
		return nil, fmt.Errorf("start client: %w", errors.Join(err, g.Close()))
	}
	c := &Client{Control: NewControl(conn), GRE: g, Host: h, Server: server}
	if err := c.hello(); err != nil {
		return nil, fmt.Errorf("start client: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Client) hello() error {
	if err := c.Send(NewStartRequest()); err != nil {
		return err
	}
	m, err := c.Expect(StartReply, Patience)
	if err == nil && m.Result != ResultOK {
		err = &Refusal{m}
	}
	return err
}

// Refusal is the error that a peer's reply stands for.
type Refusal struct{ Reply Message }

func (r *Refusal) Error() string { return fmt.Sprintf("refused: %v", r.Reply) }

// Call places a call as PNS, with an Outgoing-Call-Request. The error wraps a
// *Refusal where the server does not want it.
func (c *Client) Call(own pptp.CallID) (*Call, error) {
	return c.place(NewOutgoingCallRequest(own), OutgoingCallReply)
}

// OfferCall places a call as PAC: Incoming-Call-Request, Reply, Connected.
func (c *Client) OfferCall(own pptp.CallID) (*Call, error) {
	call, err := c.place(NewIncomingCallRequest(own), IncomingCallReply)
	if err != nil {
		return nil, err
	}
	return call, c.Send(NewIncomingCallConnected(call.Peer))
}

func (c *Client) place(request Message, reply Type) (*Call, error) {
	if err := c.Send(request); err != nil {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, err)
	}
	m, err := c.Expect(reply, Patience)
	if err != nil {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, err)
	}
	if m.PeerCallID != request.CallID {
		return nil, fmt.Errorf("place call %v: reply is for call %v", request.CallID, m.PeerCallID)
	}
	if m.Result != ResultOK && m.Result != 0 {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, &Refusal{m})
	}
	return &Call{Own: request.CallID, Peer: m.CallID, client: c}, nil
}

// Close ends the control connection by FIN, without a word, and the GRE socket.
func (c *Client) Close() error {
	return errors.Join(c.Control.Close(), c.GRE.Close())
}

// Call is a call as its client sees it. It is for one goroutine.
type Call struct {
	Own  pptp.CallID // what the client chose
	Peer pptp.CallID // what the reply gave for the server's
	seq  uint32      // of the next packet

	client *Client
}

// Send sends a payload with the next sequence number.
func (c *Call) Send(payload []byte) error {
	p := Packet{Dst: c.client.Server, CallID: c.Peer, Seq: new(c.seq), Payload: payload}
	c.seq++
	return c.client.GRE.Send(p)
}

// Recv takes the next payload that arrives for the call, from its server. What
// else arrives stays in the client's GRE.
func (c *Call) Recv(within time.Duration) ([]byte, error) {
	p, err := c.client.GRE.Take(within, func(p Packet) bool {
		return p.CallID == c.Own && p.Src == c.client.Server && p.Seq != nil
	})
	return p.Payload, err
}

// Exchange sends a payload and wants the very same back.
func (c *Call) Exchange(payload []byte, within time.Duration) error {
	if err := c.Send(payload); err != nil {
		return err
	}
	got, err := c.Recv(within)
	if err != nil {
		return fmt.Errorf("exchange %q in call %v: %w", payload, c.Own, err)
	}
	if !bytes.Equal(got, payload) {
		return fmt.Errorf("exchange %q in call %v: got %q", payload, c.Own, got)
	}
	return nil
}

// Clear asks the server to end the call; what it answers is left to read.
func (c *Call) Clear() error { return c.client.Send(NewCallClearRequest(c.Own)) }

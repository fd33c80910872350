package main

import (
	"fmt"
	"sync"
	"time"

	"pptpalg/cmd/internal/lab"
)

// client is a real pptp-linux and a look at what reaches its host.
type client struct {
	*lab.PPTP
	host  *lab.Host
	gre   *lab.GRE
	tcp   *lab.TCP
	hello lab.Proof

	mu     sync.Mutex // guards what follows
	answer lab.Proof  // the latest
	others error      // an answer that another server process gave
}

// echoSeconds is after how many seconds of silence a client sends an Echo-Request.
const echoSeconds = 2

// call has a host call the server.
func (d *demo) call(host *lab.Host) (*client, error) {
	gre, err := lab.OpenGRE(host, host.Addr)
	if err != nil {
		return nil, err
	}
	d.closeLater(gre)
	tcp, err := lab.OpenTCPBeside(host, host.Addr)
	if err != nil {
		return nil, err
	}
	d.closeLater(tcp)
	id := callID
	p, err := lab.StartPPTP(host, lab.PPTPOptions{Server: d.Outside[0].Addr, CallID: &id, Echo: echoSeconds})
	if err != nil {
		return nil, err
	}
	d.closeLater(p)
	c := &client{PPTP: p, host: host, gre: gre, tcp: tcp}
	if c.hello, err = p.RecvProof(lab.Hello, 2*lab.Patience); err != nil {
		return nil, fmt.Errorf("wait for its call: %w; pptp said: %q", err, p.Log)
	}
	d.clients = append(d.clients, c)
	go c.read()
	return c, nil
}

// read takes what comes out of the tunnel until that is closed.
func (c *client) read() {
	for {
		packet, err := c.Recv(time.Hour)
		if err != nil {
			return
		}
		if proof, err := lab.ParseProof(packet); err == nil && proof.Kind == lab.Echo {
			c.take(proof)
		}
	}
}

func (c *client) take(echo lab.Proof) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = echo
	if echo.PID != c.hello.PID {
		c.others = fmt.Errorf("an answer of another call's server process came: %v", echo)
	}
}

// answered reports whether the latest answer is the one to a frame.
func (c *client) answered(text string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.answer.Payload) == text, c.others
}

// roundTrip sends a frame and waits for its answer.
func (c *client) roundTrip(text string) error {
	if err := c.Send([]byte(text)); err != nil {
		return err
	}
	var strange error
	err := lab.Poll(lab.Patience, func() (done bool) {
		done, strange = c.answered(text)
		return done || strange != nil
	})
	if strange != nil {
		return strange
	}
	return err
}

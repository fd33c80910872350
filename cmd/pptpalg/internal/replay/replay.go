package replay

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"pptpalg/alg/packet"
)

// DefaultPorts are the TCP ports of control connections.
var DefaultPorts = []uint16{1723}

// Config says how a capture is replayed.
type Config struct {
	NAT   []NAT    // what is translated; nothing without it
	Ports []uint16 // TCP ports of PPTP servers, nil for DefaultPorts
}

// run is a capture being replayed.
type run struct {
	ports  []uint16
	nat    *translator
	report *Report
	ledger *ledger
	writer *writer // nil if nothing is written

	// Two gateways, so that a capture of both sides of a NAT has no connection in
	// the way of its other half: one translates, the other just reads.
	editing, reading *gateway
	links            map[Control]*link

	first time.Time // of the first packet
	now   time.Time // of the current one
	at    Moment    // the same, for the report
}

// Run replays a capture, pcap or pcapng, packed by gzip or not. If out is not nil,
// the packets of control connections and calls are written to it as pcap, as they
// are outside the NAT.
//
// The report is never nil. Along with an error, which names the packet, it tells
// what came before.
func Run(in io.Reader, out io.Writer, cfg Config) (*Report, error) {
	r := newRun(out, cfg)
	err := r.all(in)
	r.ledger.finish(r.report)
	if err == nil && r.writer != nil {
		err = r.writer.finish()
	}
	return r.report, err
}

func newRun(out io.Writer, cfg Config) *run {
	ports := cfg.Ports
	if ports == nil {
		ports = DefaultPorts
	}
	r := &run{
		ports: ports, nat: newTranslator(cfg.NAT), links: make(map[Control]*link),
		report: &Report{Events: []Event{}, Calls: []*Call{}, Strays: []Stray{}},
		ledger: newLedger(), editing: newGateway(), reading: newGateway(),
	}
	r.reading.editor.ReadAll()
	if out != nil {
		r.writer = &writer{w: out}
	}
	return r
}

func (r *run) all(in io.Reader) error {
	f, err := open(in)
	if err != nil {
		return err
	}
	for {
		p, err := f.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.packet(p); err != nil {
			return f.wrap(err)
		}
	}
}

func (r *run) packet(p frame) error {
	find, ok := networks[p.link]
	if !ok {
		return fmt.Errorf("link type %v cannot be read", p.link)
	}
	r.tick(p.Timestamp)
	return r.datagram(p, find)
}

// put writes a packet as it leaves the gateway.
func (r *run) put(p frame) error {
	if r.writer == nil {
		return nil
	}
	r.report.Totals.Written++
	return r.writer.write(p)
}

// tick takes the time from the capture.
func (r *run) tick(now time.Time) {
	r.report.Totals.Packets++
	if r.report.Totals.Packets == 1 {
		r.first = now
	}
	r.now = now
	r.at = Moment{Time: now.Sub(r.first).Seconds(), Packet: r.report.Totals.Packets}
	r.editing.tick(now)
	r.reading.tick(now)
}

// datagram reads a frame, edits it, and writes it.
func (r *run) datagram(p frame, find network) error {
	t := &r.report.Totals
	at, typ, ok := find(p.data)
	if !ok || typ != etherIPv4 {
		t.Other++
		return nil
	}
	c, ok := view(p, at, r.at)
	ip := c.ip()
	switch {
	case !ok:
		t.Malformed++
	case ip.Protocol() != packet.ProtocolTCP && ip.Protocol() != packet.ProtocolGRE:
		t.Other++
	case ip.Fragment():
		t.Fragments++
	case ip.Protocol() == packet.ProtocolGRE:
		return r.gre(c)
	default:
		return r.tcp(c)
	}
	return nil
}

func (r *run) gre(c captured) error {
	t, ip := &r.report.Totals, c.ip()
	id, err := packet.QuotedCallID(c.payload())
	if err != nil {
		t.Other++
		return nil
	}
	t.GRE++
	if c.missing > 0 {
		t.Cut++
	}
	k := pipe{ip.Src(), ip.Dst(), id}
	if l, ok := r.ledger.legs[k]; ok {
		l.traffic.add(ip.Len())
		c.readdress(l.public.src, l.public.dst)
		binary.BigEndian.PutUint16(c.payload()[packet.AtCallID:], uint16(l.public.id))
		return r.put(c.frame)
	}
	r.ledger.stray(k, ip.Len(), r.at)
	c.readdress(r.nat.public(ip.Src(), ip.Dst()))
	return r.put(c.frame)
}

// control reports whether a port is that of a server.
func (r *run) control(port uint16) bool { return slices.Contains(r.ports, port) }

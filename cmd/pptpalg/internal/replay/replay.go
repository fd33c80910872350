package replay

import (
	"fmt"
	"io"
	"slices"
	"time"
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
	c := captured{frame: p, at: r.at, start: at}
	d, ok := parseDatagram(p.data[at:])
	switch {
	case !ok || d.cut > 0 && p.Length == p.CaptureLength:
		t.Malformed++
	case d.protocol() != protocolTCP && d.protocol() != protocolGRE:
		t.Other++
	case d.fragment():
		t.Fragments++
	case d.protocol() == protocolGRE:
		return r.gre(c)
	default:
		return r.tcp(c)
	}
	return nil
}

func (r *run) gre(c captured) error {
	t, d := &r.report.Totals, c.datagram()
	id, ok := d.callID()
	if !ok {
		t.Other++
		return nil
	}
	t.GRE++
	if d.cut > 0 {
		t.Cut++
	}
	k := pipe{d.src(), d.dst(), id}
	if l, ok := r.ledger.legs[k]; ok {
		l.traffic.add(d.size())
		d.setAddrs(l.public.src, l.public.dst)
		d.setCallID(l.public.id)
		return r.put(c.frame)
	}
	r.ledger.stray(k, d.size(), r.at)
	d.setAddrs(r.nat.public(d.src(), d.dst()))
	return r.put(c.frame)
}

// control reports whether a port is that of a server.
func (r *run) control(port uint16) bool { return slices.Contains(r.ports, port) }

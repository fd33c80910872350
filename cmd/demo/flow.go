package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"pptpalg/cmd/internal/lab"
)

// flow is the packets of one direction of a call, as they arrive.
type flow struct {
	name  string
	gre   *lab.GRE
	mine  func(lab.Packet) bool
	since time.Time
}

type flows []flow

// flows are both directions of all calls from now on.
func (d *demo) flows() (flows, error) {
	server, err := lab.OpenGRE(d.Outside[0], d.Outside[0].Addr)
	if err != nil {
		return nil, err
	}
	d.closeLater(server)
	now := time.Now()
	var all flows
	for i, c := range d.clients {
		mark := streamed(i)
		all = append(all,
			flow{fmt.Sprintf("client %d to server", i+1), server, func(p lab.Packet) bool { return bytes.HasPrefix(p.Payload, mark) }, now},
			flow{fmt.Sprintf("server to client %d", i+1), c.gre, func(lab.Packet) bool { return true }, now})
	}
	return all, nil
}

// streamed is what the packets begin with that a client sends by stream.
func streamed(client int) []byte { return fmt.Appendf(nil, "client %d, ", client+1) }

// stream has the clients send until it is stopped; the server does so by itself.
func (d *demo) stream() (stop func()) {
	quit := make(chan struct{})
	var sending sync.WaitGroup
	for i, c := range d.clients {
		sending.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for n := 0; ; n++ {
				if c.Send(fmt.Appendf(streamed(i), "packet %d", n)) != nil {
					return // what does not arrive tells
				}
				select {
				case <-tick.C:
				case <-quit:
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(quit)
		sending.Wait()
	})
}

// packets are those that have arrived, without pure acknowledgements.
func (f flow) packets() []lab.Packet {
	var all []lab.Packet
	for _, p := range f.gre.Waiting() {
		if p.Seq != nil && p.Arrival.After(f.since) && f.mine(p) {
			all = append(all, p)
		}
	}
	return all
}

// enough is how many packets each flow is watched for before a death and after it.
const enough = 300

// pass waits until enough packets of each flow have arrived.
func (all flows) pass() error {
	var had []int
	for _, f := range all {
		had = append(had, len(f.packets()))
	}
	for i, f := range all {
		if err := lab.Poll(lab.Patience, func() bool { return len(f.packets()) >= had[i]+enough }); err != nil {
			return fmt.Errorf("%s: %w: %d packets have arrived", f.name, err, len(f.packets())-had[i])
		}
	}
	return nil
}

// judge returns how many packets have arrived, how many are missing by their numbers, and the longest
// time between two.
func (f flow) judge() (arrived, lost int, silence time.Duration) {
	packets := f.packets()
	for i, p := range packets[1:] {
		before := packets[i]
		silence = max(silence, p.Arrival.Sub(before.Arrival))
	}
	first, last := *packets[0].Seq, *packets[0].Seq
	for _, p := range packets {
		first, last = min(first, *p.Seq), max(last, *p.Seq)
	}
	return len(packets), int(last-first) + 1 - len(packets), silence
}

func (all flows) print() error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PACKETS\tARRIVED\tLOST\tLONGEST SILENCE")
	for _, f := range all {
		arrived, lost, silence := f.judge()
		fmt.Fprintf(t, "%s\t%d\t%d\t%v\n", f.name, arrived, lost, silence.Round(time.Millisecond))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print packets: %w", err)
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/internal/lab"
	"pptpalg/rules"
	"pptpalg/rules/iptables"
)

// goQueueArg makes this program the contender that rewrites GRE in a callback of
// go-nfqueue: a process of its own, so that its time can be told from the bench's.
const goQueueArg = "rewrite-with-go-nfqueue"

const (
	goQueueNumber = 1730
	goQueueMark   = rules.DefaultMark
)

// rewriter is that process.
type rewriter struct{ process *lab.Process }

func (r rewriter) clocks() []clock.Process { return []clock.Process{clock.Process(r.process.PID())} }
func (r rewriter) Close() error            { return r.process.Kill() }

// goQueue starts the process, tells it the flows, and loads the rules that the
// daemon's own data path would have.
func (p programs) goQueue(ctx context.Context, y *yard, all []farm.Call) (worker, error) {
	var flows bytes.Buffer
	if err := gob.NewEncoder(&flows).Encode(flowsOf(all)); err != nil {
		return nil, fmt.Errorf("encode flows: %w", err)
	}
	cmd, err := prioritized(y.Gateway, p.self, goQueueArg)
	if err != nil {
		return nil, err
	}
	log := new(lab.Log)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &flows, log, log
	process, err := y.Gateway.Start(cmd)
	if err != nil {
		return nil, err
	}
	r := rewriter{process}
	err = log.WaitFor("rewriting", readyTime)
	if err == nil {
		text := iptables.Text(rules.Config{Queue: 1723, Ports: []uint16{lab.Port}, Data: rules.Data{Queue: goQueueNumber, Queues: 1, Mark: goQueueMark}})
		err = y.Gateway.IPTablesRestore(ctx, text)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// flowsOf returns what has to be rewritten for calls, each in both directions.
func flowsOf(all []farm.Call) []calls.Flow {
	var flows []calls.Flow
	for _, c := range all {
		flows = append(flows,
			calls.Flow{Src: c.Server, Dst: c.Public, Key: c.PublicID, NewSrc: c.Server, NewDst: c.Client, NewKey: c.Own},
			calls.Flow{Src: c.Client, Dst: c.Server, Key: c.ServerID, NewSrc: c.Public, NewDst: c.Server, NewKey: c.ServerID})
	}
	return flows
}

// rewriteWithGoNFQueue is what that process does until it is killed: what the
// library's README shows, with the daemon's own table and rewriting.
func rewriteWithGoNFQueue(flows io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	table, err := readFlows(flows)
	if err != nil {
		return err
	}
	q, err := nfq.Open(&nfq.Config{
		NfQueue: goQueueNumber, MaxPacketLen: 0xffff, MaxQueueLen: 4096, Copymode: nfq.NfQnlCopyPacket,
		WriteTimeout: time.Minute, // a verdict that is not written is a packet that waits for ever
	})
	if err != nil {
		return fmt.Errorf("open queue: %w", err)
	}
	defer q.Close()
	if err := q.Con.SetReadBuffer(8 << 20); err != nil {
		return fmt.Errorf("size socket buffer: %w", err)
	}
	callback := func(a nfq.Attribute) int {
		edit, mark := visit(table, a)
		verdict := []nfq.VerdictOption{nfq.WithMark(mark)}
		if edit == gre.Edited {
			verdict = append(verdict, nfq.WithAlteredPacket(*a.Payload))
		}
		if err := q.SetVerdictWithOption(*a.PacketID, nfq.NfRepeat, verdict...); err != nil {
			fmt.Fprintln(out, err)
		}
		return 0
	}
	if err := q.RegisterWithErrorFunc(ctx, callback, func(error) int { return 0 }); err != nil {
		return fmt.Errorf("register callback: %w", err)
	}
	fmt.Fprintln(out, "rewriting")
	<-ctx.Done()
	return nil
}

// visit does what the daemon does with a packet that comes, or leaves.
func visit(table *gre.Table, a nfq.Attribute) (edit gre.Verdict, mark uint32) {
	call, seen := rules.Data{Mark: goQueueMark}.Marks()
	if nfqueue.Hook(*a.Hook) == nfqueue.Postrouting {
		return table.Leave(*a.Payload), seen
	}
	return table.Enter(*a.Payload).Verdict, call
}

func readFlows(r io.Reader) (*gre.Table, error) {
	var flows []calls.Flow
	if err := gob.NewDecoder(r).Decode(&flows); err != nil {
		return nil, fmt.Errorf("read flows: %w", err)
	}
	table := gre.NewTable()
	for _, f := range flows {
		if err := table.Install(f, time.Now()); err != nil {
			return nil, err
		}
	}
	return table, nil
}

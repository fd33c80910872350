package nfqueue

import (
	"fmt"
	"time"
)

// Defaults of Config. The kernel's own limit of 1024 packets is one burst of a
// fast link; 4096, at 100 µs for each, are less than half a second of delay. The
// kernel doubles the buffer it is asked for, so 4 MiB hold 4096 packets of 2 KiB
// with their overhead: neither limit makes the other pointless. A batch of 1 makes a
// packet cost 40 % more than one of 16; larger ones save nothing.
const (
	DefaultMaxLen     = 4096
	DefaultReadBuffer = 4 << 20
	DefaultBatch      = 32
)

// maxBatch is the kernel's limit for one receive and one send (UIO_MAXIOV).
const maxBatch = 1024

// drainLimit bounds the time that stopping takes if packets keep coming.
const drainLimit = time.Second

// Config says which queues to take and whom to tell. Queue is the first of the queues;
// MaxLen, ReadBuffer and Batch are each queue's.
//
// The functions are called by the goroutine that receives, with several queues by
// several goroutines at a time: packets wait as long as they take, and none but Settle
// and Released may panic. Each may be nil.
type Config struct {
	Queue      uint16 // queue number, as the firewall rule says it
	Queues     int    // how many queues, numbered on from Queue; 0 is 1
	MaxLen     uint32 // packets the kernel holds for a verdict; 0 is DefaultMaxLen
	ReadBuffer int    // socket receive buffer, bytes; 0 is DefaultReadBuffer
	// Batch is how many packets one receive takes at most, 1 to 1024; 0 is
	// DefaultBatch. None is waited for: a receive takes what there is.
	Batch int

	// Settle is called once for each receive that had packets, after the handler
	// has decided on them and before any of them gets its verdict: the place to
	// carry out, for all at once, what has to be done before they go on. If it
	// panics, they go on as the handler decided.
	Settle func()
	// Released is called when these packets have got their verdicts, if Settle did not
	// panic: the place for what can wait until they are on their way.
	Released func()
	// Panicked is told of a panic in the handler or in Settle, after the packets
	// got their verdict.
	Panicked func(value any, stack []byte)
	// Overrun is told that the socket's buffer was full: the kernel dropped at
	// least one packet. Stats has the number.
	Overrun func()
	// Failed is told of an error that the queue survived: one receive that failed,
	// or one packet that got no verdict or not the one it was meant to.
	Failed func(error)
}

func (c Config) withDefaults() Config {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.MaxLen == 0 {
		c.MaxLen = DefaultMaxLen
	}
	if c.ReadBuffer == 0 {
		c.ReadBuffer = DefaultReadBuffer
	}
	if c.Batch == 0 {
		c.Batch = DefaultBatch
	}
	return c.withListeners()
}

func (c Config) withListeners() Config {
	if c.Settle == nil {
		c.Settle = func() {}
	}
	if c.Released == nil {
		c.Released = func() {}
	}
	if c.Panicked == nil {
		c.Panicked = func(any, []byte) {}
	}
	if c.Overrun == nil {
		c.Overrun = func() {}
	}
	if c.Failed == nil {
		c.Failed = func(error) {}
	}
	return c
}

func (c Config) validate() error {
	if last := int(c.Queue) + c.Queues - 1; c.Queues < 1 || last > 0xffff {
		return fmt.Errorf("bind queues: %d from number %d: give 1 or more, numbered up to 65535", c.Queues, c.Queue)
	}
	if c.Batch < 1 || c.Batch > maxBatch {
		return fmt.Errorf("bind queues: batch of %d packets: give 1 to %d", c.Batch, maxBatch)
	}
	return nil
}

package nfqueue

import (
	"fmt"
	"time"
)

// Defaults of Config. The kernel's own limit of 1024 packets is one burst of a fast link;
// 4096, at 100 µs for each, are less than half a second of delay. The kernel doubles the
// requested buffer, so 4 MiB hold 4096 packets of 2 KiB with their overhead: neither limit
// makes the other pointless. With batches of 1 a packet costs 40 % more than with batches
// of 16; larger batches save nothing.
const (
	DefaultMaxLen     = 4096
	DefaultReadBuffer = 4 << 20
	DefaultBatch      = 32
)

// maxBatch is the kernel's limit for one receive and one send (UIO_MAXIOV).
const maxBatch = 1024

// drainLimit bounds the time that stopping takes if packets keep coming.
const drainLimit = time.Second

// Config says which queues to bind and which functions to call. Queue is the first of the
// queues; MaxLen, ReadBuffer and Batch apply to each queue.
//
// The receiving goroutine calls the functions; with several queues, several goroutines call
// them at a time. Packets wait while they run, and only Settle and Released may panic. Each
// may be nil.
type Config struct {
	Queue      uint16 // queue number, as the firewall rule says it
	Queues     int    // how many queues, numbered on from Queue; 0 is 1
	MaxLen     uint32 // packets the kernel holds for a verdict; 0 is DefaultMaxLen
	ReadBuffer int    // socket receive buffer, bytes; 0 is DefaultReadBuffer
	// Batch is the maximum number of packets in one receive, 1 to 1024; 0 is DefaultBatch.
	// A receive takes what there is, and does not wait for more.
	Batch int

	// Settle is called once for each receive that had packets, after the handler has
	// decided on them and before any of them gets its verdict. It carries out, for all at
	// once, what has to be done before they are released. If it reports that they must not be,
	// they are all dropped; if it panics, they get the verdicts that the handler decided.
	Settle func() (release bool)
	// Released is called once these packets have their verdicts, if Settle did not panic. It
	// is for work that can wait until the packets are released.
	Released func()
	// Panicked is called after a panic in the handler or in Settle, once the packets have
	// their verdicts.
	Panicked func(value any, stack []byte)
	// Overrun is called if the socket's buffer was full: the kernel dropped at least one
	// packet. Stats has the number.
	Overrun func()
	// Failed is called for an error that the queue survived: a receive that failed, or a
	// packet that got no verdict or another one than decided.
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
		c.Settle = func() bool { return true }
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
		return fmt.Errorf("bind queues: %d queues from number %d: use 1 or more, and numbers up to 65535", c.Queues, c.Queue)
	}
	if c.Batch < 1 || c.Batch > maxBatch {
		return fmt.Errorf("bind queues: batch of %d packets: give 1 to %d", c.Batch, maxBatch)
	}
	return nil
}

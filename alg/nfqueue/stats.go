package nfqueue

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Stats is the kernel's count, of all of a Queue's queues together. The counters start
// at 0 when the queues are bound and wrap at 2^32.
type Stats struct {
	Waiting uint32 // packets without a verdict, now
	Full    uint32 // packets dropped because MaxLen packets waited
	Overrun uint32 // packets dropped because the socket's buffer was full
	Queued  uint32 // packets given an ID, those dropped for Overrun included
}

var errNotBound = errors.New("no such queue is bound")

// Stats reads the kernel's count. It needs root or the file's group (its mode is 0440), and fails
// once the queues are closed.
func (q *Queue) Stats() (Stats, error) {
	var sum Stats
	for _, l := range q.lanes {
		row, err := readRow(l.cfg.Queue)
		if err != nil {
			return Stats{}, fmt.Errorf("read count of queue %d: %w", l.cfg.Queue, err)
		}
		sum.Waiting += row.stats.Waiting
		sum.Full += row.stats.Full
		sum.Overrun += row.stats.Overrun
		sum.Queued += row.stats.Queued
	}
	return sum, nil
}

// queueTable has a line per queue in the reading thread's network namespace.
const queueTable = "/proc/thread-self/net/netfilter/nfnetlink_queue"

// row is a line of queueTable.
type row struct {
	port  uint32 // netlink port that has bound the queue
	stats Stats
}

func readRow(queue uint16) (row, error) {
	table, err := os.ReadFile(queueTable)
	if err != nil {
		return row{}, err
	}
	return findRow(string(table), queue)
}

// findRow reads the columns that seq_show in nfnetlink_queue.c prints: queue
// number, port, waiting, copy mode, copy range, dropped, dropped by user space,
// last ID, 1.
func findRow(table string, queue uint16) (row, error) {
	for line := range strings.Lines(table) {
		var n [8]uint32
		if parseColumns(line, n[:]) && n[0] == uint32(queue) {
			return row{port: n[1], stats: Stats{Waiting: n[2], Full: n[5], Overrun: n[6], Queued: n[7]}}, nil
		}
	}
	return row{}, errNotBound
}

// parseColumns reads a line's first columns into n and reports whether all are
// numbers.
func parseColumns(line string, n []uint32) bool {
	columns := strings.Fields(line)
	if len(columns) < len(n) {
		return false
	}
	for i := range n {
		v, err := strconv.ParseUint(columns[i], 10, 32)
		if err != nil {
			return false
		}
		n[i] = uint32(v)
	}
	return true
}

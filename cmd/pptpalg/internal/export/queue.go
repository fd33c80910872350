package export

import (
	"sync"
	"time"

	"pptpalg/cmd/pptpalg/internal/history"
)

// item is a message that waits for the collector, or for the collector to have it.
type item struct {
	payload []byte
	time    time.Time // of the event
	sent    time.Time // when it was last written; zero if it was not
	end     uint64    // bytes of the connection, up to the end of the message
}

// queue holds messages, in order, until the collector has them. It is safe for concurrent use.
//
//	put ─► waiting to be sent ─► sent ─► the collector's
//	                 ◄── again, where a connection broke
type queue struct {
	format format
	most   int           // bytes
	more   chan struct{} // has an item when there may be more to send

	mu        sync.Mutex // guards what follows
	items     []item
	sent      int // of items, from the beginning
	bytes     int
	missing   uint64 // events that found no room since one found room last
	delivered uint64 // events so far
	lost      uint64 // events so far
}

func newQueue(f format, most int) *queue {
	return &queue{format: f, most: most, more: make(chan struct{}, 1)}
}

// put queues a record, if the format has a message for it and there is room.
func (q *queue) put(r *history.Record, now time.Time) {
	payload := q.format.payload(r)
	if payload == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) > 0 && q.bytes+len(payload) > q.most {
		q.missing++
		q.lost++
		return
	}
	q.tell(now)
	q.push(payload, r.Time.Time)
}

// lose counts events that did not come as far as the queue.
func (q *queue) lose(n uint64, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.missing += n
	q.lost += n
	if q.bytes < q.most {
		q.tell(now)
	}
}

// tell queues the message that stands for missing events. The caller holds mu.
func (q *queue) tell(now time.Time) {
	if q.missing == 0 {
		return
	}
	r := history.NewLost(q.missing, now)
	q.missing = 0
	q.push(q.format.payload(&r), now)
}

// push adds a message. The caller holds mu.
func (q *queue) push(payload []byte, at time.Time) {
	q.items = append(q.items, item{payload: payload, time: at})
	q.bytes += len(payload)
	select {
	case q.more <- struct{}{}:
	default: // it will look anyhow
	}
}

// next returns the next message to be sent.
func (q *queue) next() (payload []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sent == len(q.items) {
		return nil, false
	}
	return q.items[q.sent].payload, true
}

// wrote records that the next message was sent. end is how far the connection is.
func (q *queue) wrote(end uint64, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := &q.items[q.sent]
	i.end, i.sent = end, now
	q.sent++
}

// settle forgets the messages that the collector has, and returns how many it has taken and
// how many others were sent.
func (q *queue) settle(has func(*item) bool, now time.Time) (taken, open int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for taken < q.sent && has(&q.items[taken]) {
		q.bytes -= len(q.items[taken].payload)
		q.items[taken] = item{}
		taken++
	}
	q.items = q.items[taken:]
	q.sent -= taken
	q.delivered += uint64(taken)
	if len(q.items) == 0 {
		q.items = nil // lest it keep its place in memory
	}
	if taken > 0 {
		q.tell(now)
	}
	return taken, q.sent
}

// rewind has the messages sent again that the collector may not have.
func (q *queue) rewind() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sent = 0
}

// abandon counts all messages as lost, and returns how many there were.
func (q *queue) abandon() (n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = uint64(len(q.items))
	q.lost += n
	q.items, q.sent, q.bytes = nil, 0, 0
	return n
}

// state returns the counts, how many messages there are, and the time of the oldest.
func (q *queue) state() (delivered, lost uint64, waiting int, oldest time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) > 0 {
		oldest = q.items[0].time
	}
	return q.delivered, q.lost, len(q.items), oldest
}

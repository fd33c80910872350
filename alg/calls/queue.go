package calls

import "slices"

// queue is a first-in first-out list.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int { return len(q.items) - q.head }

func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

func (q *queue[T]) first() (v T, ok bool) {
	if q.head == len(q.items) {
		return v, false
	}
	return q.items[q.head], true
}

// all returns the items, the first one first.
func (q *queue[T]) all() []T { return q.items[q.head:] }

// drop removes the first item. Items move up when half of them are gone, so that
// each is moved once on average.
func (q *queue[T]) drop() {
	var none T
	q.items[q.head] = none
	if q.head++; q.head*2 < len(q.items) {
		return
	}
	n := copy(q.items, q.items[q.head:])
	clear(q.items[n:])
	q.items, q.head = q.items[:n], 0
}

// keep removes all items except those for which wanted returns true.
func (q *queue[T]) keep(wanted func(T) bool) {
	q.items = slices.DeleteFunc(q.items[q.head:], func(v T) bool { return !wanted(v) })
	q.head = 0
}

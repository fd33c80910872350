package nfqueue

import "runtime/debug"

// caught is a handler's panic.
type caught struct {
	value any
	stack []byte
}

// decide asks the handler. A panic is an Accept.
func (h Handler) decide(p Packet) (v Verdict, panicked *caught) {
	defer func() {
		if value := recover(); value != nil {
			v, panicked = Accept, &caught{value: value, stack: debug.Stack()}
		}
	}()
	return h(p), nil
}

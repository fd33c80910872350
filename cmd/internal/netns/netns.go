// Package netns owns network namespaces that end with whoever made them: nothing of them
// has a name, and nothing is left of them where a process dies.
package netns

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Place is a network namespace and the thread that lives in it. Both end with Close.
type Place struct {
	// Thread is the thread's number, by which ip(8) finds the namespace.
	Thread int

	calls chan func()
	ended chan struct{}
}

// New makes a namespace. It needs CAP_SYS_ADMIN.
func New() (*Place, error) {
	p := &Place{calls: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go p.live(ready)
	if err := <-ready; err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// live never unlocks its thread, so that the thread ends with the goroutine, and the
// namespace with the thread.
func (p *Place) live(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// A process's first thread does not end. While it is held here, another one is taken.
		go p.live(ready)
		<-p.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(p.ended)
	p.Thread = unix.Gettid()
	ready <- unix.Unshare(unix.CLONE_NEWNET)
	for call := range p.calls {
		call()
	}
}

// Close ends the namespace, unless a socket of it is still open. It is called once.
func (p *Place) Close() {
	close(p.calls)
	<-p.ended
}

// Do runs f in the namespace, one at a time.
func (p *Place) Do(f func() error) error {
	result := make(chan error, 1)
	p.calls <- func() { result <- f() }
	return <-result
}

package gateway

import (
	"time"

	"pptpalg/alg"
)

// EndCall ends a call by its number, and with it the control connection if that has no other
// call: the kernel translates its GRE no longer, and what its ends send on the control
// connection is answered with a RST. It may be called from any goroutine.
func (g *Gateway) EndCall(number uint64) (done alg.Ended, err error) {
	g.locked(func() bool {
		ended, changes, failed := g.editor.EndCall(number, time.Now())
		done, err = ended, failed
		g.note(changes)
		return false
	})
	if err == nil {
		g.log.Info("a call was ended by a command", "call", number, "connection", done.Connection.Original, "calls_left", done.Others)
	}
	return done, err
}

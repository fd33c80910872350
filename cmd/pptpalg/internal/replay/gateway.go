package replay

import (
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
)

// sweepEvery is how much time of the capture passes between two looks at what has
// expired in the call table.
const sweepEvery = time.Second

// sweepPackets is how many packets pass at most, for a capture whose time stands still.
const sweepPackets = 1 << 16

// gateway is an editor with the calls that it knows.
type gateway struct {
	editor  *alg.Editor
	calls   map[uint64]*record // by their number in the editor's table
	swept   time.Time
	packets int // since then
}

func newGateway() *gateway {
	return &gateway{editor: alg.NewEditor(calls.New(calls.DefaultConfig()), alg.DefaultConnections), calls: make(map[uint64]*record)}
}

// tick lets time pass in the call table. No connection ends by it: that conntrack
// has forgotten one, a capture cannot tell. The editor's doubts about a FIN are nobody's here.
func (g *gateway) tick(now time.Time) {
	g.packets++
	if since := now.Sub(g.swept); since >= 0 && since < sweepEvery && g.packets < sweepPackets {
		return
	}
	g.swept, g.packets = now, 0
	g.editor.Sweep(nil, time.Time{}, now)
	g.editor.Doubted(now)
}

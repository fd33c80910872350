package alg

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestAnyCuttingAnyOrder is the editor's property: whatever segments the bytes of a
// dialogue travel in, merged, cut, doubled, out of order, each end receives what it
// receives if every message has a segment of its own.
func TestAnyCuttingAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.Custom(drawTurn), 1, 12).Draw(rt, "script")
		want := play(t, script, func(l *link, from calls.Side, b []byte) { l.send(from, b) })
		got := play(t, script, func(l *link, from calls.Side, b []byte) { l.scatter(rt, from, b) })
		if !equal(got, want) {
			rt.Fatal("what arrives depends on the segments")
		}
	})
}

// exchange is one step of a dialogue: what the client does, and what the server
// answers.
type exchange struct {
	kind   string
	own    pptp.CallID // the client's ID
	sid    pptp.CallID // the server's ID
	result byte
	form   int // of Call-Disconnect-Notify
}

func drawTurn(t *rapid.T) exchange {
	return exchange{
		kind: rapid.SampledFrom([]string{"open", "open", "set", "clear", "echo"}).Draw(t, "kind"),
		own:  rapid.SampledFrom([]pptp.CallID{0, 7, 8, 0x0700, 0x0107, 0x1234}).Draw(t, "own"),
		// The server's IDs begin with bytes that no form of a client's ID begins
		// with: where they do, a notify cut inside its ID is undecidable.
		sid:    rapid.SampledFrom([]pptp.CallID{0x4000, 0x4007, 0x5512}).Draw(t, "sid"),
		result: rapid.SampledFrom([]byte{1, 1, 1, 2}).Draw(t, "result"),
		form:   rapid.IntRange(0, 2).Draw(t, "form"),
	}
}

// link carries bytes from end to end as TCP does: it keeps what was received, by
// sequence number, and whatever is received twice must be the same.
type link struct {
	*wire
	isn [2]packet.Seq
}

func play(t *testing.T, script []exchange, send func(*link, calls.Side, []byte)) [2][]byte {
	r := newRig(t)
	for _, own := range []pptp.CallID{7, 0x0107} {
		crowd(r, own)
	}
	w := r.masqueraded(insideAddr).handshake()
	l := &link{wire: w, isn: w.seq}
	for _, x := range script {
		l.exchange(x, send)
	}
	return l.received
}

func (l *link) exchange(x exchange, send func(*link, calls.Side, []byte)) {
	say := func(from calls.Side, b []byte) pptp.CallID {
		at := len(l.received[from.Other()])
		send(l, from, b)
		id, _ := ids(l.received[from.Other()][at:])
		return id
	}
	switch x.kind {
	case "echo":
		say(server, message(pptp.EchoRequest, 0, 0, 0))
	case "open":
		public := say(client, message(pptp.OutgoingCallRequest, x.own, 0, 0))
		say(server, message(pptp.OutgoingCallReply, x.sid, public, x.result))
	case "set":
		say(client, message(pptp.SetLinkInfo, 0, x.sid, 0))
	case "clear":
		public := say(client, append(message(pptp.CallClearRequest, x.own, 0, 0), message(pptp.EchoRequest, 0, 0, 0)...))
		id := [...]pptp.CallID{x.sid, public, public.Swap()}[x.form]
		say(server, message(pptp.CallDisconnectNotify, id, 0, 1))
	}
}

// send has the bytes arrive in one segment.
func (l *link) send(from calls.Side, b []byte) {
	l.arrive(from, l.seq[from], b)
	l.seq[from] = l.seq[from].Add(len(b))
}

// scatter sends the bytes cut at random, and before each piece perhaps a later one
// or an earlier one, cut where the sender likes.
func (l *link) scatter(rt *rapid.T, from calls.Side, b []byte) {
	base := l.seq[from]
	for at := 0; at < len(b); {
		if rapid.IntRange(0, 3).Draw(rt, "early") == 0 && at+1 < len(b) {
			ahead := rapid.IntRange(at+1, len(b)-1).Draw(rt, "ahead")
			l.segment(from, packet.ACK, base.Add(ahead), bytes.Clone(b[ahead:]))
			if l.last.Verdict != Drop {
				rt.Fatal("bytes behind a gap were let go")
			}
		}
		n := rapid.IntRange(1, min(len(b)-at, rapid.SampledFrom([]int{1, 3, 20, 400}).Draw(rt, "most"))).Draw(rt, "n")
		back := rapid.IntRange(0, at).Draw(rt, "back")
		l.arrive(from, base.Add(back), b[back:at+n])
		at += n
	}
	l.seq[from] = base.Add(len(b))
}

func (l *link) arrive(from calls.Side, seq packet.Seq, b []byte) {
	got := l.segment(from, packet.ACK, seq, bytes.Clone(b))
	to := from.Other()
	at := seq.Sub(l.isn[from])
	have := l.received[to]
	for i := range min(len(got), len(have)-at) {
		if have[at+i] != got[i] {
			l.t.Fatalf("byte %d came as %#x and again as %#x", at+i, have[at+i], got[i])
		}
	}
	if end := at + len(got); end > len(have) {
		l.received[to] = append(have, got[len(have)-at:]...)
	}
}

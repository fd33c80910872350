package nfqueue

import (
	"testing"
	"time"
)

// BenchmarkPacket is the whole way of a packet of 1400 bytes over the loopback
// through the queue, sender and receiver included. "bypass" is that way without a
// queue: the difference is the queue's cost.
func BenchmarkPacket(b *testing.B) {
	for _, bm := range []struct {
		name    string
		handler Handler
	}{
		{"bypass", nil},
		{"accept", acceptAny},
		{"modified", func(Packet) Verdict { return AcceptModified }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			needRoot(b)
			ns := newNamespace(b)
			ns.sh(b, appendTo+outUDP)
			if bm.handler != nil {
				runIn(b, ns, Config{}, bm.handler)
			}
			echo(b, newDatagrams(b, ns, ns, "127.0.0.1:1723"))
		})
	}
}

// echo keeps a window of packets under way, small enough for every buffer.
func echo(b *testing.B, d datagrams) {
	const window = 32
	payload, buf := make([]byte, 1400), make([]byte, 2000)
	if err := d.far.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatalf("set deadline: %v", err)
	}
	b.ReportAllocs()
	for range window {
		if _, err := d.near.Write(payload); err != nil {
			b.Fatalf("send: %v", err)
		}
	}
	for b.Loop() {
		if _, err := d.far.Read(buf); err != nil {
			b.Fatalf("receive: %v", err)
		}
		if _, err := d.near.Write(payload); err != nil {
			b.Fatalf("send: %v", err)
		}
	}
}

package nft

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"pptpalg/alg/nfqueue"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// A packet that waits in a queue while rules are loaded again or removed gets its verdict: a
// lost RST would leave the other end with a dead connection.
func TestKernelPacketsThatWait(t *testing.T) {
	trial.NeedRoot(t)
	cfg := rules.Config{Queue: 4711, Ports: []uint16{1723}, AllSegments: true}
	for name, change := range map[string]func(*testing.T, trial.Namespace, *Backend) error{
		"load": func(t *testing.T, _ trial.Namespace, b *Backend) error {
			_, err := b.Load(t.Context(), cfg)
			return err
		},
		"unload": func(t *testing.T, ns trial.Namespace, b *Backend) error {
			ended := make(chan struct{})
			t.Cleanup(func() { <-ended })
			go func() {
				defer close(ended)
				ns.Do(t, func() error { return b.Unload(t.Context()) })
			}()
			trial.Eventually(t, func() bool {
				left, err := b.counts()
				return err == nil && len(left) == 0
			}, func() string { return "the rules are still there" })
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := trial.NewNamespace(t)
			ns.IP(t, "link set lo up")
			// Else conntrack's own hooks would go with the last rule that asks it.
			ns.Run(t, "table ip firewall {\nchain input {\ntype filter hook input priority 0\nct state established accept\n}\n}\n", "nft", "-f", "-")
			b := in(t, ns)
			if _, err := b.Load(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			var packets atomic.Int64
			var once sync.Once
			var changed error
			failed := func(err error) { t.Error(err) }
			decide := func(*nfqueue.Packet) nfqueue.Verdict {
				packets.Add(1)
				once.Do(func() { changed = change(t, ns, b) })
				return nfqueue.Accept
			}
			ns.Do(t, func() error {
				q, err := nfqueue.Open(nfqueue.Config{Queue: cfg.Queue, Failed: failed}, decide)
				if err != nil {
					return err
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				ended := make(chan error)
				go func() { ended <- q.Run(ctx) }()
				l, err := net.Listen("tcp", "127.0.0.1:1723")
				if err != nil {
					return err
				}
				defer l.Close()
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					return err
				}
				err = c.Close()
				stop()
				<-ended
				return err
			})
			if changed != nil {
				t.Error(changed)
			}
			if packets.Load() == 0 {
				t.Error("no packet waited")
			}
		})
	}
}

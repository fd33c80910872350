package iptables

import (
	"errors"
	"testing"

	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// These tests send real TCP connections through the rules, as live_test.go does, of
// which one is left alone while it lasts.

// Of a connection that is left alone nothing is queued any more, in neither direction,
// not even its end; others are as before.
func TestKernelLeftAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for _, text := range []string{"label:118", "mark:0x20000000"} {
			t.Run(text, func(t *testing.T) {
				cfg := onePort
				var err error
				if cfg.Bypass, err = conntrack.ParseBypass(text); err != nil {
					t.Fatal(err)
				}
				leftAlone(t, command, cfg)
			})
		}
	})
}

func leftAlone(t *testing.T, command string, cfg rules.Config) {
	client, gateway, server := newGatewayWith(t, command, cfg)
	q := gateway.listen(t)
	left, other := trial.Hold(t, client.Namespace, server.Namespace), trial.Hold(t, client.Namespace, server.Namespace)
	before := settle(t, gateway, command, func(n map[string]int) bool { return n["in wanted"] == len(q.packets()) })
	if before["in wanted"] < 6 { // SYN+ACK, and two with data, of each
		t.Fatalf("only %d packets queued", before["in wanted"])
	}
	left.LeaveAlone(t, gateway.Namespace, cfg.Bypass)
	left.End(t)
	other.Say(t)
	settle(t, gateway, command, func(n map[string]int) bool {
		queued, wanted := len(q.packets()), n["in wanted"]
		return queued == before["in wanted"]+2 && wanted > queued+200 && n["in after"] == n["in before"]-queued
	})
	other.End(t)
	settle(t, gateway, command, func(n map[string]int) bool {
		return n["in after"] == n["in before"]-len(q.packets()) && len(q.packets()) > 200
	})
	checkQueued(t, q.packets())
}

// A connection that is older than the rules has no room for a label, and is queued for
// ever; with a mark it need not be.
func TestKernelLeftAloneTooLate(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, server := newGatewayWith(t, command, onePort)
		gateway.listen(t)
		h := trial.Hold(t, client.Namespace, server.Namespace)
		cfg := onePort
		cfg.Bypass = conntrack.Bypass{Label: rules.DefaultBypassLabel, Labelled: true}
		mustLoad(t, gateway.firewall(command), cfg)
		var c *conntrack.Conn
		gateway.Do(t, func() (err error) { c, err = conntrack.Dial(); return err })
		defer c.Close()
		if err := c.Leave(h.Tuple(), 0, cfg.Bypass); !errors.Is(err, conntrack.ErrNoLabels) {
			t.Errorf("Leave() = %v, want %v", err, conntrack.ErrNoLabels)
		}
		cfg.Bypass = conntrack.Bypass{Mark: 1}
		mustLoad(t, gateway.firewall(command), cfg)
		if err := c.Leave(h.Tuple(), 0, cfg.Bypass); err != nil {
			t.Error(err)
		}
		h.End(t)
	})
}

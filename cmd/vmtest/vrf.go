package main

import (
	"context"
	"fmt"
	"strings"

	"pptpalg/cmd/internal/lab"
)

// inVRF puts the clients' network into a VRF, with routes that leak both ways. A packet of
// theirs then passes PREROUTING twice, and the kernel frees what is queued the second time.
func (tr trial) inVRF() (err error) {
	n := &network{trial: tr, log: new(lab.Log), open: true} // what is forwarded comes from the VRF's device
	defer func() { err = n.end(err) }()
	for _, step := range []func() error{n.build, n.makeVRF, n.startDaemon, n.leftAlone, n.calls} {
		if err := step(); err != nil {
			return fmt.Errorf("in a VRF: %w", err)
		}
	}
	return nil
}

func (n *network) makeVRF() error {
	for _, line := range []string{
		"link add tenant type vrf table 100", "link set tenant up", "link set lan master tenant",
		"route add 203.0.113.0/24 dev wan table 100", "route add 10.77.0.0/24 dev tenant",
	} {
		if _, err := n.Gateway.Run(context.Background(), "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"pptpalg/alg/calls"
	"pptpalg/conntrack"
)

// The network of the trial:
//
//	client 198.51.100.2 ── .1 gateway 192.0.2.1 ── 192.0.2.2 server
var (
	trialClient = netip.MustParseAddr("198.51.100.2")
	trialPublic = netip.MustParseAddr("192.0.2.1")
	trialServer = netip.MustParseAddr("192.0.2.2")
)

// The trial's Call IDs.
const (
	trialOwn   = 7
	trialPeer  = 900
	trialTaken = 1000 // the client's public form
)

// trialFlows are the call's.
var trialFlows = []calls.Flow{
	{Src: trialServer, Dst: trialPublic, Key: trialTaken, NewSrc: trialServer, NewDst: trialClient, NewKey: trialOwn},
	{Src: trialClient, Dst: trialServer, Key: trialPeer, NewSrc: trialPublic, NewDst: trialServer, NewKey: trialPeer},
}

// tryTranslation sends a call's packets through a gateway that has rules and the entries of flows,
// and looks at what comes out. The error is errNoTrial where it could not be tried.
func tryTranslation(ctx context.Context, flows []calls.Flow, all ...object) error {
	s := surroundings{
		devs: map[string]int{"client": 10, "server": 11},
		network: network{
			addresses: []host{{netip.MustParseAddr("198.51.100.1"), "client"}, {trialPublic, "server"}},
			hosts:     []host{{trialClient, "client"}, {trialServer, "server"}},
		},
	}
	x, err := newScratch(ctx, s, layer{objects: all})
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTrial, err)
	}
	defer x.close()
	err = x.enter(func(c *conntrack.Conn) (err error) {
		for _, f := range flows {
			err = errors.Join(err, c.Create(f))
		}
		return err
	})
	if err != nil {
		return err
	}
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }
	found, err := x.pass([]packet{
		{proto: "gre", in: "client", from: at(trialClient), to: at(trialServer), key: trialPeer},
		{proto: "gre", in: "server", from: at(trialServer), to: at(trialPublic), key: trialTaken},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTrial, err)
	}
	if err := arrived("server", found[0], parcel{trialPublic, trialPeer}); err != nil {
		return err
	}
	return arrived("client", found[1], parcel{trialServer, trialOwn})
}

// parcel is a packet as its receiver sees it: the address of the other one, and the Call ID.
type parcel struct {
	peer netip.Addr
	id   uint16
}

func arrived(who string, p passed, want parcel) error {
	switch {
	case !p.gone:
		return fmt.Errorf("send GRE to the %s: %w", who, errNothing)
	case p.parcel != want:
		return fmt.Errorf("send GRE to the %s: it arrived from %v with Call ID %v, want %v and %v", who, p.parcel.peer, p.parcel.id, want.peer, want.id)
	}
	return nil
}

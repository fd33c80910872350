package nfqueue

// Hook is the netfilter hook at which a packet was queued (enum nf_inet_hooks).
type Hook uint8

// The netfilter hooks of IPv4.
const (
	Prerouting Hook = iota
	Input
	Forward
	Output
	Postrouting
)

// Packet is one queued packet.
type Packet struct {
	// Payload is the packet from its IP header on. The handler may read it and edit it in
	// place, but only during the call.
	Payload []byte
	Hook    Hook
	// Mark is the packet's mark, 0 without one. If the handler changes it, the packet gets
	// the new mark.
	Mark uint32
	// Truncated says that Payload is not all of the packet. Such a packet cannot
	// be modified. The kernel copies up to 65531 bytes (NFQNL_MAX_COPY_RANGE).
	Truncated bool
	// Zone is the conntrack zone that the packet was looked up in. Zoned says that it is
	// known: see Queue.TellZones.
	Zone  uint16
	Zoned bool
}

// Verdict is what happens to a packet. The zero value releases it unchanged.
type Verdict uint8

// The verdicts.
const (
	Accept         Verdict = iota // unchanged, even if Payload was edited
	AcceptModified                // with Payload's bytes; unchanged if it is truncated
	Drop
	// Repeat and RepeatModified are Accept and AcceptModified, but the packet first goes
	// through the rules of this hook's table or base chain again (NF_REPEAT). Set a Mark by
	// which a rule keeps it from the queue the second time.
	Repeat
	RepeatModified
)

// modifies reports whether the packet goes on with Payload's bytes.
func (v Verdict) modifies() bool { return v == AcceptModified || v == RepeatModified }

// ruling returns netfilter's verdict. An unknown verdict accepts.
func (v Verdict) ruling() uint32 {
	switch v {
	case Drop:
		return nfDrop
	case Repeat, RepeatModified:
		return nfRepeat
	}
	return nfAccept
}

// Handler decides on a packet, which it may use only during the call. Each queue calls it
// for one packet at a time, in the order in which the kernel queued them; several queues
// call it at the same time.
type Handler func(*Packet) Verdict

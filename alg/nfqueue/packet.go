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
	// Payload is the packet from its IP header on. It is the handler's during the
	// call, to read and to edit in place, and not after it.
	Payload []byte
	Hook    Hook
	// Mark is the packet's mark, 0 without one. If the handler changes it the packet
	// goes on with that.
	Mark uint32
	// Truncated says that Payload is not all of the packet. Such a packet cannot
	// be modified. The kernel copies up to 65531 bytes (NFQNL_MAX_COPY_RANGE).
	Truncated bool
}

// Verdict is what becomes of a packet. The zero value lets it go as it came.
type Verdict uint8

// The verdicts.
const (
	Accept         Verdict = iota // as it came, whatever became of Payload
	AcceptModified                // with Payload's bytes; as it came if it is truncated
	Drop
	// Repeat and RepeatModified are Accept and AcceptModified, but that the packet goes
	// through the hook's rules again (NF_REPEAT), of one table or base chain, and on
	// from there. Set a Mark by which a rule keeps it from the queue the second time.
	Repeat
	RepeatModified
)

// modifies reports whether the packet goes on with Payload's bytes.
func (v Verdict) modifies() bool { return v == AcceptModified || v == RepeatModified }

// ruling returns netfilter's verdict. What is unknown accepts.
func (v Verdict) ruling() uint32 {
	switch v {
	case Drop:
		return nfDrop
	case Repeat, RepeatModified:
		return nfRepeat
	}
	return nfAccept
}

// Handler decides on a packet, which is its own during the call only. Each queue calls it for one packet at a time, in the
// order the kernel queued them; several queues call it at the same time.
type Handler func(*Packet) Verdict

package pptp

import "strconv"

// CallID is the 16-bit number by which one end of a control connection knows a call (RFC
// 2637 section 2.7). Every value is legal, including 0: Windows clients and poptop use it.
type CallID uint16

// Swap returns the ID with its bytes exchanged, as accel-ppp up to 1.14 writes
// it into Call-Disconnect-Notify.
func (id CallID) Swap() CallID { return id<<8 | id>>8 }

// High returns the byte that comes first on the wire.
func (id CallID) High() byte { return byte(id >> 8) }

// Low returns the byte that comes second on the wire.
func (id CallID) Low() byte { return byte(id) }

func (id CallID) String() string { return strconv.Itoa(int(id)) }

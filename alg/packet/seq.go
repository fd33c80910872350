package packet

// Seq is a TCP sequence number. It wraps, so a plain < on two of them is wrong:
// compare with Before and After, which hold while the two are less than 2^31
// apart (RFC 9293 section 3.4).
type Seq uint32

// Before reports whether s precedes o.
func (s Seq) Before(o Seq) bool { return s.Sub(o) < 0 }

// After reports whether s follows o.
func (s Seq) After(o Seq) bool { return o.Before(s) }

// Add returns the sequence number n bytes on, or back where n is negative.
func (s Seq) Add(n int) Seq { return s + Seq(n) }

// Sub returns how many bytes s lies after o: negative if s precedes it. The
// result is -2^31 to 2^31-1.
func (s Seq) Sub(o Seq) int { return int(int32(s - o)) }

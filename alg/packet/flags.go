package packet

import "strings"

// Flags are the TCP header's control bits (RFC 9293 section 3.1).
type Flags uint8

// The control bits, from the lowest.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

var flagNames = [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// Has reports whether every bit of want is set.
func (f Flags) Has(want Flags) bool { return f&want == want }

func (f Flags) String() string {
	var set []string
	for i, name := range flagNames {
		if f.Has(1 << i) {
			set = append(set, name)
		}
	}
	return strings.Join(set, "|")
}

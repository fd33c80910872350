package ports

import "fmt"

// Mode says where the fast path takes packets.
type Mode string

// The modes.
const (
	Off  Mode = "off"
	Auto Mode = "auto" // XDP where it works, else tc
	XDP  Mode = "xdp"  // XDP, or nothing
	TC   Mode = "tc"   // tc
)

// MarshalText and UnmarshalText are for flags.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m), nil }

func (m *Mode) UnmarshalText(b []byte) error {
	switch read := Mode(b); read {
	case Off, Auto, XDP, TC:
		*m = read
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s, %s and %s", b, Off, Auto, XDP, TC)
}

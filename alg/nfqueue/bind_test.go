package nfqueue

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"
)

// TestAnswersOnly checks the filter's constant against the bytes of a message.
func TestAnswersOnly(t *testing.T) {
	m := netlink.Message{Header: netlink.Header{Length: 16, Type: netlink.Error}}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	if got := []byte{byte(answerType() >> 8), byte(answerType())}; !bytes.Equal(got, b[4:6]) {
		t.Errorf("the filter looks for % x, the message has % x", got, b[4:6])
	}
}

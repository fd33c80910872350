package alg

import (
	"fmt"
	"testing"
)

func TestWordsOfTheUnknown(t *testing.T) {
	const beyond = 200
	for _, got := range []fmt.Stringer{Verdict(beyond), Reason(beyond), Anomaly(beyond)} {
		if got.String() != "unknown(200)" {
			t.Errorf("%T 200 is %q", got, got)
		}
	}
}

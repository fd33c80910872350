package alg

import (
	"fmt"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	seen := map[string]bool{}
	for r := range reasons {
		seen["reason "+r.String()] = true
	}
	for a := range anomalies {
		seen["anomaly "+a.String()] = true
	}
	if len(seen) != int(reasons)+int(anomalies) || seen["reason "] || seen["anomaly "] {
		t.Errorf("words are not distinct: %v", seen)
	}
	for _, got := range []fmt.Stringer{Drop + 1, reasons, anomalies} {
		if !strings.HasPrefix(got.String(), "unknown(") {
			t.Errorf("a %T beyond all is %q", got, got)
		}
	}
}

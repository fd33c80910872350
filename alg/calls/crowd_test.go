package calls

import (
	"math/rand/v2"
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// TestFullestSpace holds the figure against a look at every space, while spaces fill
// and empty in no order.
func TestFullestSpace(t *testing.T) {
	tab := New(testConfig(time.Minute))
	keys := []spaceKey{{peer: [4]byte{1}}, {peer: [4]byte{2}}, {peer: [4]byte{2}, zone: 1}}
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		k, id := keys[r.IntN(len(keys))], pptp.CallID(r.IntN(400))
		if filling := step/5000%2 == 0; filling == (r.IntN(4) > 0) {
			tab.space(k).take(id)
		} else {
			tab.free(k, id)
		}
		most := 0
		for _, s := range tab.spaces {
			most = max(most, s.taken)
		}
		if got, _ := tab.FullestSpace(); got != most {
			t.Fatalf("step %d: %d are taken in the fullest space, want %d", step, got, most)
		}
	}
}

// TestFullestSpaceOfCalls: an ID counts until it has rested.
func TestFullestSpaceOfCalls(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerSpace = 100000
	tab := New(cfg)
	if taken, limit := tab.FullestSpace(); taken != 0 || limit != 65535 {
		t.Errorf("an empty table: %d of %d", taken, limit)
	}
	c := tab.Open(masqueraded(inside(1), 1024))
	dial(t, c, 7, 100)
	cfg.CallsPerSpace = 10
	tab.SetConfig(cfg)
	if taken, limit := tab.FullestSpace(); taken != 1 || limit != 10 {
		t.Errorf("with a call: %d of %d", taken, limit)
	}
	c.Close(Finished, epoch)
	if taken, _ := tab.FullestSpace(); taken != 1 {
		t.Errorf("while its ID rests: %d", taken)
	}
	tab.Expire(epoch.Add(time.Hour))
	if taken, _ := tab.FullestSpace(); taken != 0 {
		t.Errorf("in the end: %d", taken)
	}
}

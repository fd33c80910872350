package nfqueue

import "testing"

func TestConfigDefaults(t *testing.T) {
	c := Config{}.withDefaults()
	if c.MaxLen != DefaultMaxLen || c.ReadBuffer != DefaultReadBuffer || c.Batch != DefaultBatch || c.Queues != 1 {
		t.Errorf("%+v", c)
	}
	if !c.Settle() {
		t.Error("packets are not released")
	}
	c.Released()
	c.Panicked(nil, nil)
	c.Overrun()
	c.Failed(nil)
	if c := (Config{MaxLen: 1, ReadBuffer: 2}).withDefaults(); c.MaxLen != 1 || c.ReadBuffer != 2 {
		t.Errorf("%+v", c)
	}
}

func TestConfigLimits(t *testing.T) {
	for _, cfg := range []Config{{Queues: -1}, {Queues: 2, Queue: 65535}, {Batch: -1}, {Batch: maxBatch + 1}} {
		if q, err := Open(cfg, acceptAny); err == nil {
			t.Errorf("%+v was opened", cfg)
			q.Close()
		}
	}
}

package export

import (
	"fmt"
	"strings"

	"pptpalg/cmd/pptpalg/internal/history"
)

// journal writes entries for systemd's journal in its native protocol. Each field of an event
// is a field of the entry, PPTPALG_CLIENT and the like.
type journal struct{}

func newJournal(*Target) format { return journal{} }

func (journal) payload(r *history.Record) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "PRIORITY=%d\nSYSLOG_IDENTIFIER=pptpalg\nMESSAGE=%s\nPPTPALG_TIME=%s\nPPTPALG_EVENT=%s\n", severity(r), r.Text(), r.Time, r.Event)
	for _, f := range r.Fields() {
		fmt.Fprintf(&b, "PPTPALG_%s=%s\n", strings.ToUpper(f.Name), f.Value)
	}
	return []byte(b.String())
}

func (journal) start() []byte { return nil }

func (journal) frame(payload []byte) []byte { return payload }

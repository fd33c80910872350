package fast

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

func TestDifference(t *testing.T) {
	xdp, tc, both := ports.Port{Index: 2, Name: "a", XDP: true}, ports.Port{Index: 3, Name: "b", TC: true}, ports.Port{Index: 2, Name: "a", XDP: true, TC: true}
	down, byTC := ports.Port{Index: 2, Name: "a", Down: true}, ports.Port{Index: 2, Name: "a", TC: true}
	unfit := ports.Port{Index: 2, Name: "a"}
	attached := func(all ...ports.Port) (told []fastpath.Attached) {
		for _, p := range all {
			told = append(told, fastpath.Attached{Port: p})
		}
		return told
	}
	tests := []struct {
		name     string
		chosen   []ports.Port
		attached []fastpath.Attached
		want     string
	}{
		{"nothing", nil, nil, ""},
		{"alike", []ports.Port{xdp, tc}, attached(xdp, tc), ""},
		{"nothing attached", []ports.Port{xdp, tc}, nil, "a, b"},
		{"one is new", []ports.Port{xdp, tc}, attached(xdp), "b"},
		{"one is gone", []ports.Port{tc}, attached(xdp, tc), "without interface 2"},
		{"one came back under another index", []ports.Port{{Index: 9, Name: "a", TC: true}, tc}, attached(byTC, tc), "a, without interface 2"},
		{"one is down for now", []ports.Port{down, tc}, attached(xdp, tc), ""},
		{"one is not to be used", []ports.Port{down, tc}, attached(tc), ""},
		{"XDP would skip a qdisc now", []ports.Port{byTC, tc}, attached(both, tc), "a without XDP"},
		{"one has become a bridge's", []ports.Port{unfit, tc}, attached(byTC, tc), "without interface 2"},
		{"XDP was refused", []ports.Port{xdp, tc}, []fastpath.Attached{{Port: byTC, Refused: true}, {Port: tc}}, ""},
		{"XDP was refused, and there is nothing else", []ports.Port{xdp, tc}, []fastpath.Attached{{Port: unfit, Refused: true}, {Port: tc}}, ""},
		{"another's program came first", []ports.Port{xdp, tc}, []fastpath.Attached{{Port: byTC, Taken: true}, {Port: tc}}, ""},
		{"XDP works now", []ports.Port{xdp, tc}, attached(byTC, tc), "a with XDP"},
		{"XDP is out of use, and tc is not", []ports.Port{byTC, tc}, []fastpath.Attached{{Port: byTC, Idle: true}, {Port: tc}}, "a, a without XDP"},
		{"XDP is out of use, and there is to be nothing", []ports.Port{unfit, tc}, []fastpath.Attached{{Port: unfit, Idle: true}, {Port: tc}}, "without interface 2"},
		{"not attached any more", []ports.Port{xdp, tc}, attached(unfit, tc), "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := difference(tt.chosen, tt.attached); got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
		})
	}
	if got, want := Summary(attached(both, tc, down)), "a xdp+tc, b tc"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

// TestTell: who has asked for interfaces to be attached waits before it warns, and tells when
// all are attached.
func TestTell(t *testing.T) {
	const (
		lacks     = "the fast path is not attached"
		cannot    = "the fast path cannot be attached"
		all       = "the fast path is attached to all its interfaces"
		notLoaded = "it is not loaded"
	)
	other := errors.New("permission denied")
	type look struct {
		after    time.Duration // the one before
		absent   error
		unloaded bool
		missing  string
		want     string
	}
	for _, row := range []struct {
		name  string
		root  bool
		looks []look
	}{
		{"gone and back under systemd", false, []look{{}, {missing: "lan"}, {after: 2 * time.Second, missing: "lan"}, {after: 2 * time.Second, want: all}, {after: grace}}},
		{"nobody attaches it", false, []look{{missing: "lan"}, {after: grace - 1, missing: "lan"}, {after: 1, missing: "lan", want: lacks}, {after: time.Hour, missing: "lan"}, {after: 1, want: all}}},
		{"gone again", false, []look{{missing: "lan"}, {after: grace, want: all}, {after: 1, missing: "lan"}, {after: grace - 1, missing: "lan"}, {after: 1, missing: "lan", want: lacks}}},
		{"another one", false, []look{{missing: "lan"}, {after: grace, missing: "lan", want: lacks}, {after: 1, missing: "lan, ppp0", want: "lan, ppp0"}}},
		{"who may cannot", true, []look{{missing: "lan", want: cannot}, {after: grace, missing: "lan"}, {after: 1, want: all}}},
		{"loaded soon", false, []look{{absent: os.ErrNotExist, missing: "lan"}, {after: 2 * time.Second, want: all}}},
		{"never loaded", false, []look{{absent: os.ErrNotExist, missing: "lan"}, {after: grace, absent: os.ErrNotExist, missing: "lan", want: notLoaded}, {after: grace, absent: os.ErrNotExist, missing: "lan"}}},
		{"never loaded, and no interface", false, []look{{absent: os.ErrNotExist}, {after: grace, absent: os.ErrNotExist, want: notLoaded}}},
		{"not to be opened", false, []look{{absent: other}, {after: grace, absent: other, want: "permission denied"}}},
		{"not to be opened by root", true, []look{{absent: other, want: "permission denied"}}},
		{"why root cannot load it is told", true, []look{{absent: os.ErrNotExist, missing: "lan"}}},
		{"unloaded", false, []look{{unloaded: true, missing: "lan"}, {after: time.Hour, unloaded: true, missing: "lan"}, {after: 1, want: all}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			now, said := time.Unix(0, 0), new(bytes.Buffer)
			d := &Tended{clock: func() time.Time { return now }, root: row.root, log: slog.New(slog.NewTextHandler(said, nil))}
			for i, l := range row.looks {
				now = now.Add(l.after)
				said.Reset()
				d.tender.absent, d.tender.unloaded = l.absent, l.unloaded
				var missing []string
				if l.missing != "" {
					missing = strings.Split(l.missing, ", ")
				}
				d.tell(datapath.Ports{}, missing)
				if got := said.String(); !strings.Contains(got, l.want) || l.want == "" && got != "" {
					t.Errorf("look %d: it says %q, want %q", i, got, l.want)
				}
			}
		})
	}
}

// TestDue: a plan is carried out at once, and again after pauses that grow.
func TestDue(t *testing.T) {
	type try struct {
		after time.Duration // the one before
		plan  string
		want  bool
	}
	for _, row := range []struct {
		name string
		root bool
		try  []try
	}{
		{"asks", false, []try{
			{0, "a", true}, {2 * time.Second, "a", false}, {13 * time.Second, "a", true}, {29 * time.Second, "a", false}, {time.Second, "a", true}, {time.Minute, "a", true},
			{2 * time.Minute, "a", true}, {4 * time.Minute, "a", true}, {5*time.Minute - 1, "a", false}, {1, "a", true}, {5 * time.Minute, "a", true},
		}},
		{"something else", false, []try{{0, "a", true}, {askedAgain, "a", true}, {1, "b", true}, {askedAgain, "b", true}, {1, "a", true}}},
		{"does it", true, []try{{0, "a", true}, {askedAgain, "a", false}, {again - askedAgain, "a", true}, {again - 1, "a", false}, {1, "b", true}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			d := &Tended{clock: func() time.Time { return now }, root: row.root}
			for i, try := range row.try {
				now = now.Add(try.after)
				if got := d.due(try.plan); got != try.want {
					t.Errorf("try %d, %q: %v, want %v", i, try.plan, got, try.want)
				}
			}
		})
	}
}

// TestListen: who cannot listen to network changes any more tries again, and says so once.
func TestListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		tended := &Tended{log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, stop := context.WithCancel(t.Context())
		times := 0
		go tended.listen(ctx, func() error {
			if times++; times == 3 {
				<-ctx.Done()
				return nil
			}
			return errors.New("no buffer space")
		})
		time.Sleep(5 * lookInterval)
		stop()
		synctest.Wait()
		if times != 3 || strings.Count(log.String(), "cannot listen to network changes") != 1 {
			t.Errorf("it listened %d times, and said:\n%s", times, log.String())
		}
	})
}

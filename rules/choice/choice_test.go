package choice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/rules"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{"auto": Auto, "load": Auto, "nft": NFT, "iptables": IPTables, "none": None, "": "", "NFT": ""} {
		got, err := Parse(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("Parse(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}

// fake is a backend that notes what it is asked for.
type fake struct {
	name         string
	load, unload error
	asked        *[]string
}

func (f *fake) Name() string { return f.name }

func (f *fake) Load(_ context.Context, cfg rules.Config) (rules.Outcome, error) {
	*f.asked = append(*f.asked, "load "+f.name)
	return rules.Outcome{Config: cfg}, f.load
}

func (f *fake) Unload(context.Context) error {
	*f.asked = append(*f.asked, "unload "+f.name)
	return f.unload
}

func (f *fake) Present(context.Context, rules.Config) (bool, error) {
	*f.asked = append(*f.asked, "present "+f.name)
	return true, nil
}

func (f *fake) Watch(context.Context, func()) error { return nil }

// The first that can loads, and what the other has left goes. Who has loaded loads again.
func TestLoad(t *testing.T) {
	refused, denied := errors.New("refused"), fmt.Errorf("denied: %w", os.ErrPermission)
	control := rules.Config{Queue: 1723, Ports: []uint16{1723}}
	rows := []struct {
		name          string
		cfg           rules.Config
		first, second error // of loading
		backend       string
		want          []string
	}{
		{"the first", control, nil, nil, "a", []string{"load a", "unload b", "load a", "unload b", "present a"}},
		{"the second", control, refused, nil, "b", []string{"load a", "load b", "unload a", "load b", "unload a", "present b"}},
		{"none", control, refused, refused, "", []string{"load a", "load b", "load a", "load b", "present a"}},
		{"no rights", control, denied, nil, "", []string{"load a", "load a", "present a"}},
	}
	for _, row := range rows {
		var asked []string
		a := &fake{name: "a", load: row.first, asked: &asked}
		b := &fake{name: "b", load: row.second, asked: &asked}
		c := &chooser{name: Auto, order: []rules.Backend{a, b}}
		for range 2 {
			done, err := c.Load(t.Context(), row.cfg)
			if done.Backend != row.backend || (err == nil) != (row.backend != "") {
				t.Errorf("%s: %+v, %v, want %q", row.name, done, err, row.backend)
			}
			for _, cause := range []error{row.first, row.second} {
				if row.backend == "" && cause != nil && !errors.Is(err, cause) {
					t.Errorf("%s: error %v hides %v", row.name, err, cause)
				}
			}
		}
		if _, err := c.Present(t.Context(), row.cfg); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(row.want, asked); diff != "" {
			t.Errorf("%s: asked (-want +got):\n%s", row.name, diff)
		}
	}
}

// A backend that is named is the only one that loads, and both unload.
func TestNew(t *testing.T) {
	for _, name := range Names {
		c, chooses := New(name).(*chooser)
		if New(name).Name() != name || chooses != (name != None) {
			t.Errorf("%s: %T", name, New(name))
		}
		if !chooses {
			continue
		}
		var all []string
		for _, b := range slices.Concat(c.order, c.rest) {
			all = append(all, b.Name())
		}
		slices.Sort(all)
		if diff := cmp.Diff([]string{IPTables, NFT}, all); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if New("").Name() != None {
		t.Error("who is not told who loads the rules loads some")
	}
}

func TestOrder(t *testing.T) {
	for name, want := range map[string][]string{Auto: {"nft", "iptables"}, NFT: {"nft"}, IPTables: {"iptables"}, None: nil} {
		if diff := cmp.Diff(want, Order(name, rules.Config{Queue: 1723, Ports: []uint16{1723}})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

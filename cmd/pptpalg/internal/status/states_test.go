package status

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/browser"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// state is what the page may have to show.
type state struct {
	name   string
	fake   func() *fake
	change func(*Config)
	health string // in the pill
	tone   string // the pill's
	shown  string // condition for that it is shown
}

// someCalls are so many calls of an ordinary day, of one in nine with a new Call ID.
func someCalls(n int) func() *fake {
	return func() *fake {
		f := newFake()
		for i := range n {
			own := pptp.CallID(7 + 13*i)
			public := own
			if i%9 == 0 {
				public = pptp.CallID(60_000 + i)
			}
			f.add(person{fmt.Sprintf("10.20.%d.%d", i/40, 10+i%40), fmt.Sprintf("203.0.113.%d", 50+i%3), own, public, pptp.CallID(i + 1), calls.Established, time.Duration(1+i*i) * time.Minute})
			f.carry(i, uint64(1+i*i)*91_000, uint64(1+i)*130_000)
		}
		return f
	}
}

const rowCount = `document.querySelectorAll("#rows tr").length`

var states = []state{
	{name: "no-calls", fake: newFake, health: "Working", tone: "good", shown: `document.getElementById("empty").textContent === "There are no calls now." && document.querySelector("table").hidden`},
	{name: "4-calls", fake: someCalls(4), health: "Working", tone: "good", shown: rowCount + ` === 4`},
	{name: "62-calls", fake: someCalls(62), health: "Working", tone: "good", shown: rowCount + ` === 62 && document.getElementById("pager").hidden`},
	{name: "50000-calls", fake: func() *fake {
		f := newFake()
		f.crowd(50_000)
		return f
	}, health: "Working", tone: "good", shown: rowCount + ` === 100 && document.getElementById("page").textContent === "Page 1 of 500"`},
	{name: "one-way-call", fake: func() *fake {
		f := someCalls(5)()
		f.add(person{"10.20.3.99", "203.0.113.50", 7, 7, 99, calls.Established, time.Minute})
		f.carry(5, 0, 4_500)
		return f
	}, health: "Working, with problems", tone: "warn", shown: `document.querySelectorAll(".state.bad").length === 1 && document.getElementById("problems").innerText.includes("no GRE arrives from 203.0.113.50 for 10.20.3.99")`},
	{name: "rules-gone", fake: func() *fake {
		f := someCalls(4)()
		f.started = errors.New("the firewall rules are missing: another program keeps removing them, and they are loaded again after a pause; new calls are not edited")
		return f
	}, change: func(c *Config) { c.Rules = func() (string, time.Time) { return "nft", time.Time{} } },
		health: "Not ready", tone: "bad", shown: `document.getElementById("rules").textContent === "missing" && document.getElementById("problems").innerText.startsWith("the firewall rules are missing")`},
	{name: "degraded-cluster", fake: someCalls(4), change: func(c *Config) {
		c.Cluster = &admin.ClusterControl{
			Status: func() admin.Cluster {
				return admin.Cluster{Name: "gateway-a", Broken: true, Whole: true, Members: []admin.ClusterMember{{Name: "gateway-a"}, {Name: "gateway-b"}}}
			},
			Owners: func() func(*calls.View) (string, bool) {
				return func(v *calls.View) (string, bool) { return "gateway-b", v.Number%2 == 0 }
			},
		}
	}, health: "Working, with problems", tone: "warn",
		shown: `document.getElementById("cluster").textContent === "gateway-a: 2 gateways, degraded" && document.getElementById("problems").innerText.startsWith("in its cluster this gateway is degraded: the shared store does not answer")`},
}

// uncut is true where no text is wider than what it stands in.
const uncut = `[...document.querySelectorAll("body *")].every((e) => {
	const box = e.getBoundingClientRect();
	if (box.width <= 1 || e.closest("thead") && getComputedStyle(document.querySelector("thead")).position === "absolute") return true;
	return e.scrollWidth <= e.clientWidth + 1 || getComputedStyle(e).overflowX === "visible";
}) && [...document.querySelectorAll("input")].every((e) => {
	const pen = document.createElement("canvas").getContext("2d");
	const style = getComputedStyle(e);
	pen.font = style.fontWeight + " " + style.fontSize + " " + style.fontFamily;
	return pen.measureText(e.placeholder).width <= e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
})`

// faint lists texts that have too little contrast with what is behind them: WCAG 2.2, 1.4.3.
const faint = `(() => {
	const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => {
		const part = (c) => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
		return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
	};
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const colour = numbers(getComputedStyle(e).backgroundColor);
			if (colour.length === 3 || colour[3] === 1) return colour;
		}
		return [255, 255, 255];
	};
	const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const found = new Set();
	while (all.nextNode()) {
		const e = all.currentNode.parentElement;
		if (all.currentNode.data.trim() === "" || !e.checkVisibility() || e.closest(":disabled, script, template, noscript")) continue;
		const style = getComputedStyle(e);
		const [a, b] = [light(numbers(style.color)), light(behind(e))];
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		const size = parseFloat(style.fontSize);
		const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
		if (contrast < (large ? 3 : 4.5)) found.add(e.tagName + "." + e.className + ": " + contrast.toFixed(2));
	}
	return [...found];
})()`

// testStates looks at the page in each state, in the usual widths, by day and by night.
func testStates(t *testing.T, b *browser.Browser) {
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) { s.test(t, b) })
	}
}

func (s *state) test(t *testing.T, b *browser.Browser) {
	f := s.fake()
	cfg := f.config()
	cfg.Gatherer = f.officeMetrics()
	if n := len(f.views()); n > 1 && n < 1000 {
		cfg.Meter = hour(f)
	}
	cfg.Rules = func() (string, time.Time) { return "nft", time.Now().Add(-31 * time.Hour) }
	cfg.LastError = func() *LogLine {
		return &LogLine{schema.At(time.Now().Add(-50 * time.Hour)), `cannot hear of changes of the firewall rules: they are looked at now and then interval=30s err="listen to nftables: operation not permitted"`}
	}
	if s.change != nil {
		s.change(&cfg)
	}
	url := serve(t, cfg).URL
	began := time.Now()
	tab, err := b.Open(url+"/", 1280, 860)
	must(t, err)
	must(t, tab.Await(s.shown, shown))
	t.Logf("shown after %v", time.Since(began).Round(time.Millisecond))
	for _, window := range []struct{ width, height int }{{1280, 1100}, {768, 1100}, {390, 2000}} {
		for _, scheme := range []string{"light", "dark"} {
			must(t, tab.Prefer(scheme))
			s.look(t, tab, window.width, window.height, scheme)
		}
	}
	if c := tab.Complaints(); len(c) > 0 {
		t.Errorf("the browser complains: %q", c)
	}
}

func (s *state) look(t *testing.T, tab *browser.Tab, width, height int, scheme string) {
	t.Helper()
	wantFit(t, tab, width, height)
	shoot(t, tab, fmt.Sprintf("%s-%d-%s", s.name, width, scheme))
	var whole bool
	must(t, tab.Eval(uncut, &whole))
	if !whole {
		t.Errorf("at %d pixels a text is cut", width)
	}
	var pale []string
	must(t, tab.Eval(faint, &pale))
	if len(pale) > 0 {
		t.Errorf("at %d pixels, %s, these have too little contrast: %s", width, scheme, strings.Join(pale, "; "))
	}
	var pill []string
	must(t, tab.Eval(`[document.getElementById("health").textContent, document.getElementById("health").className]`, &pill))
	if want := []string{s.health, "pill " + s.tone}; pill[0] != want[0] || pill[1] != want[1] {
		t.Errorf("the pill is %q, want %q", pill, want)
	}
}

package status

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"iter"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/browser"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/schema"
)

var screenshots = flag.String("screenshots", "", "directory for screenshots of the page")

// needBrowser starts one.
func needBrowser(t *testing.T) *browser.Browser {
	t.Helper()
	if _, err := exec.LookPath(browser.Program); err != nil {
		if os.Getenv("PPTPALG_NO_SKIP") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	b, err := browser.Start(t.TempDir(), func(f func() error) error { return f() })
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shoot keeps a screenshot, if they are wanted, in as many colours as are seen.
func shoot(t *testing.T, tab *browser.Tab, name string) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	shot, err := tab.Screenshot()
	must(t, err)
	img, err := png.Decode(bytes.NewReader(shot))
	must(t, err)
	few := image.NewPaletted(img.Bounds(), commonest(img))
	draw.Draw(few, few.Bounds(), img, image.Point{}, draw.Src)
	f, err := os.Create(filepath.Join(*screenshots, name+".png"))
	must(t, err)
	must(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(f, few))
	must(t, f.Close())
}

// commonest returns the colours that an image has most of.
func commonest(img image.Image) color.Palette {
	count := make(map[color.Color]int)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			count[img.At(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	return all[:min(256, len(all))]
}

const shown = `document.body.innerText`

// fits is true where nothing is wider than the window.
const fits = `document.documentElement.scrollWidth <= window.innerWidth &&
	[...document.querySelectorAll("body *")].every((e) => e.closest("thead") || e.getBoundingClientRect().right <= window.innerWidth + 1)`

// apart is true where no cell of a call lies over another.
const apart = `[...document.querySelectorAll("#rows tr")].every((row) => {
	const cells = [...row.cells].map((c) => c.getBoundingClientRect());
	return cells.every((a, i) => cells.every((b, j) => i >= j || a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1));
})`

// office is a gateway on an ordinary day.
func office() *fake {
	f := newFake()
	for i, p := range []person{
		{"10.20.1.14", "203.0.113.50", 0, 256, 11, calls.Established, 26*time.Hour + 17*time.Minute},
		{"10.20.1.15", "203.0.113.50", 0, 257, 12, calls.Established, 9*time.Hour + 3*time.Minute},
		{"10.20.1.22", "203.0.113.50", 7, 7, 19, calls.Established, 7*time.Hour + 41*time.Minute},
		{"10.20.3.101", "192.0.2.17", 49152, 49152, 4096, calls.Established, 5*time.Hour + 12*time.Minute},
		{"10.20.3.118", "192.0.2.17", 49152, 49407, 4353, calls.Established, 3*time.Hour + 55*time.Minute},
		{"10.20.3.7", "203.0.113.50", 16384, 16384, 23, calls.Established, 96 * time.Minute},
		{"10.20.1.40", "203.0.113.50", 7, 255, 24, calls.Established, 41*time.Minute + 9*time.Second},
		{"10.20.4.12", "192.0.2.17", 32801, 32801, 4401, calls.Established, 12*time.Minute + 30*time.Second},
		{"10.20.4.13", "192.0.2.17", 32801, 32770, 4402, calls.Answered, 3 * time.Second},
		{"10.20.4.90", "203.0.113.50", 512, 512, 0, calls.Requested, time.Second},
	} {
		f.add(p)
		if p.state == calls.Established {
			f.carry(i, uint64(p.age/time.Second)*9100, uint64(p.age/time.Second)*1300)
		}
	}
	return f
}

// busy has its calls carry something for the next look.
func (f *fake) busy() {
	for i, n := range []uint64{310_000, 2_400, 46_000, 1_270_000, 88_000, 900, 18_500, 640_000} {
		f.carry(i, n, n/7+450)
	}
}

func (f *fake) officeMetrics() prometheus.Gatherer {
	reg := prometheus.NewRegistry()
	for name, value := range map[string]float64{
		"process_start_time_seconds": float64(time.Now().Add(-31 * time.Hour).Unix()), "pptpalg_call_id_space_used_ratio": 0.0213,
		"pptpalg_call_ids_resting": 4, "pptpalg_control_connections": 10, "pptpalg_control_connections_untouched": 2, "pptpalg_calls_opened_total": 184,
	} {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name})
		g.Set(value)
		reg.MustRegister(g)
	}
	closed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pptpalg_calls_closed_total"}, []string{"reason"})
	closed.WithLabelValues("refused").Add(3)
	closed.WithLabelValues("cleared").Add(171)
	reg.MustRegister(closed)
	return reg
}

// TestInBrowser looks at the page as its readers do.
func TestInBrowser(t *testing.T) {
	b := needBrowser(t)
	t.Run("office", func(t *testing.T) { testOffice(t, b) })
	t.Run("trouble", func(t *testing.T) { testTrouble(t, b) })
	t.Run("one-way", func(t *testing.T) { testOneWay(t, b) })
	t.Run("crowd", func(t *testing.T) { testCrowd(t, b) })
	t.Run("states", func(t *testing.T) { testStates(t, b) })
}

// testOffice looks on a desk, on a phone, in the dark, and when the daemon has gone.
func testOffice(t *testing.T, b *browser.Browser) {
	f := office()
	cfg := f.config()
	cfg.Gatherer, cfg.Meter = f.officeMetrics(), hour(f)
	cfg.Rules = func() (string, time.Time) { return "nft", time.Now().Add(-31 * time.Hour) }
	s := serve(t, cfg)
	tab, err := b.Open(s.URL+"/", 1280, 860)
	must(t, err)
	must(t, tab.Await(`document.querySelectorAll("#rows tr").length === 10 && document.getElementById("health").textContent === "Working"`, shown))
	f.busy()
	must(t, tab.Await(`/^[1-9].*B.s$/.test(document.getElementById("rate").textContent)`, shown))
	shoot(t, tab, "desktop")

	var text string
	must(t, tab.Eval(`document.querySelector("#rows tr").innerText`, &text))
	if !strings.Contains(text, "10.20.4.90") || !strings.Contains(text, "requested") {
		t.Errorf("the newest call is %q", text)
	}
	for _, want := range []struct{ client, sorted string }{{"10.20.1.14", "ascending"}, {"10.20.4.90", "descending"}} {
		must(t, tab.Eval(`document.querySelector("th[data-sort=client] button").click()`, nil))
		must(t, tab.Await(`document.querySelector("#rows td").textContent === "`+want.client+`" && document.querySelector("th[data-sort=client]").ariaSort === "`+want.sorted+`"`, shown))
	}
	must(t, tab.Eval(`document.getElementById("filter").value = "192.0.2.0/24 established"; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	must(t, tab.Await(`document.querySelectorAll("#rows tr").length === 3 && document.getElementById("count").textContent === "3 of 10 calls match"`, shown))
	must(t, tab.Eval(`document.getElementById("filter").value = ""; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	must(t, tab.Await(`document.querySelectorAll("#rows tr").length === 10`, shown))

	must(t, tab.Prefer("dark"))
	shoot(t, tab, "dark")
	wantFit(t, tab, 1280, 860)
	for _, width := range []int{360, 600, 840, 1024, 1200} {
		wantFit(t, tab, width, 780)
		if width == 360 {
			must(t, tab.Resize(360, 1300)) // to see some cards
			shoot(t, tab, "phone-dark")
			must(t, tab.Prefer("light"))
			shoot(t, tab, "phone")
		}
		shoot(t, tab, fmt.Sprint("at-", width))
	}
	if c := tab.Complaints(); len(c) > 0 {
		t.Errorf("the browser complains: %q", c)
	}
	for _, url := range tab.Requests() {
		if !strings.HasPrefix(url, s.URL+"/") {
			t.Errorf("the page asks for %s", url)
		}
	}

	s.CloseClientConnections()
	s.Close()
	must(t, tab.Await(`document.body.classList.contains("stale") && !document.getElementById("gone").hidden && document.title.startsWith("No answer")`, shown))
	wantFit(t, tab, 360, 780)
	must(t, tab.Resize(1280, 860))
	shoot(t, tab, "gone")
}

func wantFit(t *testing.T, tab *browser.Tab, width, height int) {
	t.Helper()
	must(t, tab.Resize(width, height))
	for what, want := range map[string]string{"something is wider than the window": fits, "cells lie over each other": apart} {
		var ok bool
		must(t, tab.Eval(want, &ok))
		if !ok {
			shoot(t, tab, "not-fitting")
			t.Errorf("at %d pixels %s", width, what)
		}
	}
}

// testTrouble: what is wrong is said, however long it is, and text stays text.
func testTrouble(t *testing.T, b *browser.Browser) {
	f := newFake()
	f.stuck = errors.New(`the packet loop is stuck: <img src=x onerror="document.title='hacked'">` + strings.Repeat("x", 200))
	f.add(person{"10.20.30.40", "203.0.113.250", 65535, 65534, 65533, calls.Established, 200 * 24 * time.Hour})
	f.carry(0, 123_456_789_012, 98_765_432_101)
	cfg := f.config()
	cfg.Version = "v1.2.3-45-g0123456789abcdef-dirty"
	tab, err := b.Open(serve(t, cfg).URL+"/#sort=-rate&filter=%3Cb%3E", 360, 780)
	must(t, err)
	must(t, tab.Await(`document.getElementById("health").textContent === "Stuck" && document.getElementById("problems").innerText.includes("<img")`, shown))
	must(t, tab.Await(`document.getElementById("empty").innerText === "No call matches the filter."`, shown))
	must(t, tab.Eval(`document.getElementById("filter").value = "/65534"; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	must(t, tab.Await(`document.querySelectorAll("#rows tr").length === 1`, shown))
	wantFit(t, tab, 360, 780)
	shoot(t, tab, "trouble")
	wantFit(t, tab, 320, 600)
	var title string
	must(t, tab.Eval(`document.title`, &title))
	if c := tab.Complaints(); len(c) > 0 || title == "hacked" {
		t.Errorf("title %q, the browser complains: %q", title, c)
	}
}

// hour has a meter with the past of an hour, in which calls come and go.
func hour(f *fake) *meter.Meter {
	m := meter.New(meter.Source{Calls: func() iter.Seq[[]calls.View] { return slices.Values([][]calls.View{f.views()}) }, Traffic: f.traffic})
	views := f.views()
	for i := range 180 {
		some := views[:len(views)*(100+i%40)/140]
		carried, _ := f.traffic()
		m.Observe(time.Now().Add(time.Duration(i-180)*meter.Step), some, carried)
		f.carry(0, uint64(1_000_000*(i%30)), uint64(90_000*(i%30)))
		f.carry(1, uint64(300_000*(i%7)), uint64(500_000*(i%11)))
	}
	return m
}

// testOneWay: a call that carries one way only is not shown as a good one, its explanation is a
// click away, and the last hour is drawn. It is looked at at the usual widths.
func testOneWay(t *testing.T, b *browser.Browser) {
	f := office()
	f.calls[8].State = calls.Established
	f.carry(8, 0, 4_500)
	f.calls[8].Since = time.Now().Add(-time.Minute)
	cfg := f.config()
	cfg.Gatherer, cfg.Meter = f.officeMetrics(), hour(f)
	cfg.Explain = func(_ context.Context, client netip.Addr) (explain.Report, error) {
		if client != netip.MustParseAddr("10.20.4.13") {
			return explain.Report{}, errors.New("the kernel says no")
		}
		return explain.Report{Client: client, DataPath: "kernel", Rules: "loaded", Causes: []explain.Cause{{Code: "no_gre_from_server", Text: "nothing came <b>", Advice: "ask the provider"}}}, nil
	}
	cfg.Rules = func() (string, time.Time) { return "nft", time.Now().Add(-30 * time.Hour) }
	cfg.LastError = func() *LogLine {
		return &LogLine{schema.At(time.Now().Add(-time.Hour)), "journal err=\"no space left on device\""}
	}
	tab, err := b.Open(serve(t, cfg).URL+"/#sort=state", 1280, 860)
	must(t, err)
	must(t, tab.Await(`[...document.querySelectorAll(".state.bad")].map((e) => e.parentElement.innerText).join().includes("nothing from the server for ")`, shown))
	must(t, tab.Await(`document.getElementById("calls-sub").textContent.startsWith("1 one-way, ") && document.getElementById("health").textContent === "Working, with problems"`, shown))
	must(t, tab.Await(`document.querySelectorAll("#past polyline").length === 4 && document.getElementById("past-calls-sub").textContent.startsWith("at most 1")`, shown))
	must(t, tab.Await(`document.getElementById("rules").textContent === "loaded by nftables, for 1 d 6 h" && document.getElementById("last-error").textContent.startsWith("1 h 0 m ago: journal")`, shown))
	for _, width := range []int{1280, 768, 390} {
		for _, light := range []string{"light", "dark"} {
			must(t, tab.Prefer(light))
			wantFit(t, tab, width, 1400)
			shoot(t, tab, fmt.Sprintf("one-way-%d-%s", width, light))
		}
	}
	must(t, tab.Eval(`document.querySelector(".state.bad").parentElement.querySelector("button").click()`, nil))
	must(t, tab.Await(`document.getElementById("why").open && document.getElementById("why-causes").textContent === "nothing came <b>→ ask the provider" && document.getElementById("why-evidence").textContent.includes("firewall rules: loaded")`, shown))
	wantFit(t, tab, 390, 800)
	shoot(t, tab, "explained")
	must(t, tab.Eval(`document.querySelector("dialog form button").click()`, nil))
	must(t, tab.Await(`!document.getElementById("why").open`, shown))
	must(t, tab.Eval(`document.querySelector('.why[data-client="10.20.1.14"]').click()`, nil))
	must(t, tab.Await(`document.getElementById("why-wait").textContent.endsWith("it answered 500: the kernel says no")`, shown))
	for _, c := range tab.Complaints() {
		if !strings.Contains(c, "500") {
			t.Errorf("the browser complains: %q", c)
		}
	}
}

// testCrowd: of 50,000 calls a page is shown, and one can turn it.
func testCrowd(t *testing.T, b *browser.Browser) {
	f := newFake()
	f.crowd(50_000)
	tab, err := b.Open(serve(t, f.config()).URL+"/", 1280, 860)
	must(t, err)
	must(t, tab.Await(`document.querySelectorAll("#rows tr").length === 100 && document.getElementById("page").textContent === "Page 1 of 500"`, shown))
	must(t, tab.Eval(`document.getElementById("next").click()`, nil))
	must(t, tab.Await(`document.getElementById("count").textContent === "50,000 calls, 101 to 200 shown"`, shown))
	must(t, tab.Eval(`document.getElementById("filter").value = "10.64.1.7 "; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	must(t, tab.Await(`document.querySelector("#rows td").textContent.startsWith("10.64.1.7")`, shown))
}

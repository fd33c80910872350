package main

import (
	"os"
	"strings"
	"testing"

	"pptpalg/cmd/internal/browser"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

const (
	pageText = `document.body.innerText`
	rows     = `document.querySelectorAll("#rows tr").length`
)

// TestStatusPage reads the daemon's page in a browser on the gateway, while calls come and
// go, and the daemon as well.
func TestStatusPage(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	tab := g.browse("http://127.0.0.1:9723/")
	await(t, tab, `document.getElementById("health").textContent === "Working"`)
	await(t, tab, `document.getElementById("empty").innerText === "There are no calls now."`)
	must(t, tab.Eval(`window.loaded = "once"`, nil))

	first := callOn(t, g.client(0), 7)
	await(t, tab, rows+` === 1 && document.querySelector("#rows tr").innerText.includes("10.77.0.10")`)
	second := callOn(t, g.client(1), 7)
	exchange(t, first, second)
	await(t, tab, rows+` === 2 && document.getElementById("calls-sub").innerText === "2 established"`)
	await(t, tab, pageText+`.includes("203.0.113.1 / 255") && `+pageText+`.includes("in 3 packets")`)
	await(t, tab, `document.getElementById("rate").innerText.endsWith("B/s")`)

	must(t, tab.Eval(`document.getElementById("filter").value = "10.77.0.11"; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	await(t, tab, rows+` === 1 && document.getElementById("count").innerText === "1 of 2 calls match"`)
	must(t, tab.Eval(`document.getElementById("filter").value = ""; document.getElementById("filter").dispatchEvent(new Event("input"))`, nil))
	must(t, first.Clear())
	await(t, tab, rows+` === 1 && document.querySelector("#rows tr").innerText.includes("10.77.0.11")`)
	must(t, tab.Resize(360, 780))
	await(t, tab, `document.documentElement.scrollWidth <= 360`)
	wantQuiet(t, tab)

	g.stop()
	await(t, tab, `document.body.classList.contains("stale") && document.getElementById("gone").innerText.startsWith("No answer from the daemon since ")`)
	g.start()
	await(t, tab, `!document.body.classList.contains("stale") && document.getElementById("gone").hidden && `+rows+` === 1`)
	await(t, tab, `window.loaded === "once"`)
	g.stop()
	g.start("--status-page", "off")
	await(t, tab, `document.getElementById("gone").innerText.includes("it answered 404: the status page is not served here")`)
}

// TestStatusPageFlag: as a key of the configuration file too, where YAML has words of its own
// for true and false.
func TestStatusPageFlag(t *testing.T) {
	for value, want := range map[string]string{"auto": "auto", "on": `"on"`, "off": `"off"`, `"off"`: `"off"`} {
		code, printed, stderr := pptpalg(t, "config", "--config", configured(t, "status-page: "+value+"\n"))
		if code != 0 || !strings.Contains(printed, "\nstatus-page: "+want+"\n") {
			t.Errorf("%s is read as another: exit %d: %s", value, code, stderr)
		}
	}
	if code, _, stderr := pptpalg(t, "check-config", configured(t, "status-page: yes\n")); code != 1 || !strings.Contains(stderr, "use auto, on or off") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code, _, stderr := pptpalg(t, "run", "--status-page", "maybe", "--config", ""); code != 2 || !strings.Contains(stderr, `"maybe" is not valid; use auto, on or off`) {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// browse opens a page in a browser on the gateway, that reaches nothing else.
func (g *testGateway) browse(url string) *browser.Tab {
	g.t.Helper()
	if err := lab.Need(browser.Program); err != nil {
		if os.Getenv("PPTPALG_NO_SKIP") != "" {
			g.t.Fatal(err)
		}
		g.t.Skip(err)
	}
	b, err := browser.Start(g.t.TempDir(), g.Gateway.Do)
	must(g.t, err)
	closeAfter(g.t, b)
	tab, err := b.Open(url, 1280, 800)
	must(g.t, err)
	return tab
}

func await(t *testing.T, tab *browser.Tab, condition string) {
	t.Helper()
	must(t, tab.Await(condition, pageText))
}

// wantQuiet: nothing is complained about, and nothing asked for elsewhere.
func wantQuiet(t *testing.T, tab *browser.Tab) {
	t.Helper()
	if c := tab.Complaints(); len(c) > 0 {
		t.Errorf("the browser complains: %q", c)
	}
	asked := tab.Requests()
	for _, url := range asked {
		if !strings.HasPrefix(url, "http://127.0.0.1:9723/") {
			t.Errorf("the page asks for %s", url)
		}
	}
	if len(asked) < 8 {
		t.Errorf("it asks only for %q", asked)
	}
}

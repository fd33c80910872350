package browser

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Tab is a page in a window.
type Tab struct {
	browser *Browser
	session string

	// Browser.mu guards what follows.
	complaints, requests []string
}

type object map[string]any

// Open opens a window of so many pixels with a page.
func (b *Browser) Open(url string, width, height int) (*Tab, error) {
	var target struct {
		ID string `json:"targetId"`
	}
	if err := b.call("", "Target.createTarget", object{"url": "about:blank"}, &target); err != nil {
		return nil, err
	}
	var attached struct {
		Session string `json:"sessionId"`
	}
	if err := b.call("", "Target.attachToTarget", object{"targetId": target.ID, "flatten": true}, &attached); err != nil {
		return nil, err
	}
	t := &Tab{browser: b, session: attached.Session}
	b.mu.Lock()
	b.tabs[t.session] = t
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		if err := t.call(domain+".enable", nil, nil); err != nil {
			return nil, err
		}
	}
	if err := t.Resize(width, height); err != nil {
		return nil, err
	}
	return t, t.call("Page.navigate", object{"url": url}, nil)
}

func (t *Tab) call(method string, params, result any) error {
	return t.browser.call(t.session, method, params, result)
}

// note takes an event.
func (t *Tab) note(method string, params json.RawMessage) {
	var e struct {
		Type    string `json:"type"`
		Request struct {
			URL string `json:"url"`
		} `json:"request"`
		Entry struct {
			Level, Text, URL string
		} `json:"entry"`
	}
	if json.Unmarshal(params, &e) != nil {
		return
	}
	switch method {
	case "Network.requestWillBeSent":
		t.requests = append(t.requests, e.Request.URL)
	case "Log.entryAdded":
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			t.complaints = append(t.complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	case "Runtime.exceptionThrown":
		t.complaints = append(t.complaints, string(params))
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			t.complaints = append(t.complaints, string(params))
		}
	}
}

// Complaints returns errors and warnings so far, as the browser's console shows them.
func (t *Tab) Complaints() []string { return t.copy(&t.complaints) }

// Requests returns the addresses that the page has asked for so far.
func (t *Tab) Requests() []string { return t.copy(&t.requests) }

func (t *Tab) copy(list *[]string) []string {
	t.browser.mu.Lock()
	defer t.browser.mu.Unlock()
	return slices.Clone(*list)
}

// Resize makes the window so many pixels large.
func (t *Tab) Resize(width, height int) error {
	return t.call("Emulation.setDeviceMetricsOverride", object{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
}

// Prefer has the page think that its reader prefers a color scheme: light or dark.
func (t *Tab) Prefer(scheme string) error {
	return t.call("Emulation.setEmulatedMedia", object{"features": []object{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Eval evaluates JavaScript in the page, awaits it if it is a promise, and stores its value as
// JSON does. into may be nil.
func (t *Tab) Eval(script string, into any) error {
	var r struct {
		Result    struct{ Value json.RawMessage }
		Exception *struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	if err := t.call("Runtime.evaluate", object{"expression": script, "returnByValue": true, "awaitPromise": true}, &r); err != nil {
		return err
	}
	if r.Exception != nil {
		return fmt.Errorf("evaluate %s: %s %s", script, r.Exception.Text, r.Exception.Exception.Description)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(r.Result.Value, into)
}

// Await waits until a condition is true in the page. The error shows what it was told to
// show.
func (t *Tab) Await(condition, show string) error {
	end := time.Now().Add(patience)
	for {
		var met bool
		err := t.Eval("Boolean("+condition+")", &met)
		if met {
			return nil
		}
		if time.Now().After(end) {
			var shown json.RawMessage
			_ = t.Eval(show, &shown) // what there is
			return fmt.Errorf("await %s: %w; %s", condition, errOr(err), shown)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func errOr(err error) error {
	if err == nil {
		return fmt.Errorf("not within %v", patience)
	}
	return err
}

// Screenshot returns the window's picture as a PNG.
func (t *Tab) Screenshot() (png []byte, err error) {
	var shot struct{ Data []byte }
	err = t.call("Page.captureScreenshot", object{"format": "png"}, &shot)
	return shot.Data, err
}

package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long an answer of the browser is awaited. Its first one takes seconds on a
// loaded machine.
const patience = 20 * time.Second

// Program is Debian's name of Chromium.
const Program = "chromium"

// Browser is a Chromium that runs.
type Browser struct {
	ctx  context.Context
	tabs []context.CancelFunc // each waits for what it ends
}

// Start starts a browser with a new profile in a directory that is empty. in runs a function
// in the network namespace that the browser is to run in, on one thread. The caller must call
// Close.
func Start(profile string, in func(func() error) error) (*Browser, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(Program), chromedp.UserDataDir(profile),
		chromedp.NoSandbox, // which root cannot have
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(patience),
		// Its own default ties the browser's life to the thread that starts it.
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }))
	allocator, _ := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	if err := in(func() error { return chromedp.Run(ctx) }); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", Program, err)
	}
	return &Browser{ctx: ctx}, nil
}

// Close ends the browser.
func (b *Browser) Close() error {
	for _, end := range b.tabs {
		end()
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	// Children are left where it crashed or does not end; else the group is gone.
	defer syscall.Kill(-chromedp.FromContext(ctx).Browser.Process().Pid, syscall.SIGKILL)
	return chromedp.Cancel(ctx)
}

// Tab is a page in a window.
type Tab struct {
	ctx context.Context

	mu                   sync.Mutex // guards what follows
	complaints, requests []string
}

// Open opens a window of so many pixels with a page.
func (b *Browser) Open(url string, width, height int) (*Tab, error) {
	ctx, end := chromedp.NewContext(b.ctx)
	b.tabs = append(b.tabs, end)
	t := &Tab{ctx: ctx}
	chromedp.ListenTarget(ctx, t.note)
	// The context that a tab is made with ends it, so it has no deadline.
	if err := chromedp.Run(ctx); err != nil {
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	if err := t.Resize(width, height); err != nil {
		return nil, err
	}
	return t, t.run("open "+url, chromedp.Navigate(url))
}

// run has the browser do something in the tab within patience.
func (t *Tab) run(what string, actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// note takes an event.
func (t *Tab) note(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		t.requests = append(t.requests, e.Request.URL)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
			t.complaints = append(t.complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		t.complaints = append(t.complaints, e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning || e.Type == runtime.APITypeAssert {
			for _, arg := range e.Args {
				t.complaints = append(t.complaints, fmt.Sprintf("%s: %s %s", e.Type, arg.Value, arg.Description))
			}
		}
	}
}

// Complaints returns errors and warnings so far, as the browser's console shows them.
func (t *Tab) Complaints() []string { return t.copy(&t.complaints) }

// Requests returns the addresses that the page has asked for so far.
func (t *Tab) Requests() []string { return t.copy(&t.requests) }

func (t *Tab) copy(list *[]string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(*list)
}

// Resize makes the window so many pixels large.
func (t *Tab) Resize(width, height int) error {
	return t.run("resize the window", emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, width < 600))
}

// Prefer has the page think that its reader prefers a color scheme: light or dark.
func (t *Tab) Prefer(scheme string) error {
	return t.run("prefer a color scheme", emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
}

// Eval evaluates JavaScript in the page, and stores its value as JSON does. into may be nil.
func (t *Tab) Eval(script string, into any) error {
	return t.run("evaluate "+script, chromedp.Evaluate(script, into))
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
			return fmt.Errorf("await %s: not within %v (%v); %s", condition, patience, err, shown)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Screenshot returns the window's picture as a PNG.
func (t *Tab) Screenshot() (png []byte, err error) {
	err = t.run("take a picture", chromedp.CaptureScreenshot(&png))
	return png, err
}

// Package browser drives a headless Chromium for tests, by chromedp: it opens a page, looks at
// it as a reader would, and tells what the page asked for and complained about.
//
// The browser may run in a network namespace of its own, where nothing but the page can be
// reached, and nobody else can reach the browser: it is asked over a port of that namespace.
package browser

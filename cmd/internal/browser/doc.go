// Package browser drives a headless Chromium for tests, by chromedp: it opens a page, reads
// it as a user would, and reports the page's requests and errors.
//
// The browser may run in a network namespace of its own, where it can reach only the page,
// and nobody else can reach it: tests control it over a port of that namespace.
package browser

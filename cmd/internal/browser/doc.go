// Package browser drives a headless Chromium for tests: it opens a page, looks at it as a
// reader would, and tells what the page asked for and complained about.
//
// It speaks the DevTools protocol over two pipes. So the browser may run in a network
// namespace of its own, where nothing but the page can be reached, and nobody else can
// reach the browser.
//
// https://chromedevtools.github.io/devtools-protocol/
package browser

// Package trial holds what the tests of the rules' backends share: network namespaces,
// crafted segments, and connections that last as long as a test wants.
package trial

// Package follow hears from the kernel that something has changed, for those who then look at the
// whole of it: which of many events it was makes no difference, and a lost one is a change too.
package follow

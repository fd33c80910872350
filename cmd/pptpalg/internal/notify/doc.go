// Package notify owns what the daemon tells the service manager that started it
// (sd_notify(3)): that it edits, that it lives, and that it stops.
package notify

// Package notify tells the service manager that started the daemon (sd_notify(3)) that it
// edits, that it lives, and that it stops, and knows the commands of service managers.
package notify

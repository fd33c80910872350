// Package export owns the way of the translation log to collectors: as syslog (RFC 5424),
// into systemd's journal, and as IPFIX (RFC 7011, RFC 8158). Nothing waits for a collector:
// events queue up to a limit while it cannot be reached, and those that find no room are
// counted.
package export

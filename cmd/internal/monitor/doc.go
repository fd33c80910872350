// Package monitor reads the files for monitoring: the alert rules, the dashboard and the
// table of metrics. Tests compare them with what the daemon exports.
package monitor

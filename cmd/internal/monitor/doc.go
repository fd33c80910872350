// Package monitor owns what the files for monitoring say: the alert rules, the dashboard
// and the table of metrics. Tests hold them against what the daemon exports.
package monitor

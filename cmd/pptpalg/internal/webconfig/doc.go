// Package webconfig is TLS and passwords for what the daemon serves: a web configuration
// file of Prometheus's exporter-toolkit. It is the only package that knows the toolkit.
package webconfig

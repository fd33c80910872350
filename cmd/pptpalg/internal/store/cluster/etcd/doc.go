// Package etcd is the shared store in an etcd cluster. It is the only package that knows
// etcd's client.
package etcd

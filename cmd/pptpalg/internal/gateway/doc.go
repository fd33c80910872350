// Package gateway owns the running gateway: it takes packets from the queue, has
// the editor edit them, carries out what follows from that in the kernel before
// the packet is let go, and keeps the call table in step with conntrack.
package gateway

// Package nfqueue takes packets from a kernel NFQUEUE, hands each to a handler,
// and gives the kernel exactly one verdict for each.
//
// Whatever goes wrong, a packet goes on: a handler's panic, a truncated packet or
// an unknown verdict lets it through as it came. What the kernel cannot hand over
// (its queue or the socket's buffer is full) it drops and counts, and TCP sends it
// again. The queue does not ask the kernel to fail open (NFQA_CFG_F_FAIL_OPEN): a
// connection whose packets are edited only while there is no load is worse off
// than one that waits for a retransmission.
//
// Nor does it ask for GSO packets (NFQA_CFG_F_GSO): so the kernel completes
// checksums and cuts to the MTU before it queues (nfqnl_enqueue_packet), and an
// altered packet needs no more than its own checksums right.
package nfqueue

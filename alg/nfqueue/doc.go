// Package nfqueue takes packets from a kernel NFQUEUE, hands each to a handler,
// and gives the kernel exactly one verdict for each.
//
// A packet may also go through the hook's rules once more (Repeat). This happens in the
// kernel: netfilter calls the table's function again, from its first rule.
//
// Whatever goes wrong, a packet goes on: after a handler's panic, and for a truncated
// packet or an unknown verdict, it passes unchanged. If the kernel cannot hand a packet
// over (its queue or the socket's buffer is full), it drops and counts it, and TCP sends it
// again. The queue does not ask the kernel to fail open (NFQA_CFG_F_FAIL_OPEN): a
// connection whose packets are edited only while there is no load is worse off than one
// that waits for a retransmission.
//
// It does not ask for GSO packets either (NFQA_CFG_F_GSO), so the kernel completes
// checksums and cuts to the MTU before it queues (nfqnl_enqueue_packet), and an edited
// packet only needs right checksums of its own.
//
// go-nfqueue binds the queue, configures and unbinds it. Its goroutine receives, but not
// with its code: as soon as the queue is bound, a receive is made to fail, and the callback
// for that is the loop of this package, which returns when the queue is stopped (bind). A
// packet costs that loop about a tenth of the CPU time (BenchmarkQueue), so the loop stays
// ours: data path queue carries more than four times the packets per core that it carries
// with go-nfqueue's (docs/BENCHMARKS.md). The reasons, and what was tried without success:
//
//   - One system call receives many messages into buffers that are used again, instead of
//     two calls for each and some seventy allocations: nearly all of the difference. A batch
//     of 1 costs 40 % more than one of 16; beyond that nothing is gained. A receive takes
//     what there is, so a packet that comes alone is answered alone, at once.
//   - All rulings on a batch go into one send, and those on a run of accepted packets into
//     one message (NFQNL_MSG_VERDICT_BATCH). How many bytes a send has matters little.
//   - A ruling is written into the slot before its packet's payload, so that nothing is
//     copied in user space. What the kernel copies, out and back, is about a fifth.
//   - In a steady stream a small receive buffer costs more, as does a short queue.
//   - The socket leaves Go's poller, and the goroutine waits in the receive itself. The poller
//     is woken for every packet that comes while none is waited for, and wakes a thread
//     that finds nothing to do. For control connections, whose packets come one by one, that
//     was a quarter of a call's cost.
//   - Before it waits, the goroutine gives up the processor once (sched_yield): where others
//     have work, they send more meanwhile.
//   - System calls that never wait are hidden from Go's scheduler, which would hand the
//     goroutine's place to another thread after 20 µs.
//   - Slots that lie apart in the processor's cache: no difference. SO_BUSY_POLL is not for
//     netlink. Garbage collection has nothing to do.
//
// No verdict on a batch is sent before the handler has decided on all of it and Settle has
// returned. So the caller can do in one step, for all packets, what must be done before
// they are released.
//
// It is not possible to send back a part of a packet. A verdict's payload replaces the
// packet from its start, and a shorter one cuts it (nfqnl_mangle trims to the new length);
// only a bridge's link header is replaced on its own (NFQA_L2HDR). So a smaller copy range
// would save one of the copies only for packets that are not edited.
package nfqueue

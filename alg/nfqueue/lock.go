package nfqueue

// Lock is the queue number that stands for a network namespace: no packets are sent to it,
// and only one daemon can bind it. Binding takes CAP_NET_ADMIN, so an unprivileged user
// cannot keep a daemon from starting. The kernel unbinds it however the daemon ends.
const Lock uint16 = 61723

// TakeLock binds the lock. The error is an ErrTaken if another process has it, and a
// *TakenError if this process may know which one.
func TakeLock() (*Queue, error) {
	return Open(Config{Queue: Lock, MaxLen: 1, ReadBuffer: 1 << 16, Batch: 1}, func(*Packet) Verdict { return Accept })
}

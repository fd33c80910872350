package nft

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"
)

// longestWait is how long packets may wait in queues before the table is removed all the same.
const longestWait = 500 * time.Millisecond

// awaitQueues waits until no packet waits in any queue of the calling thread's network
// namespace.
func awaitQueues(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, longestWait)
	defer cancel()
	for waiting() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

// waiting reports whether a packet waits: the third field of nfnetlink_queue's lines counts
// them.
func waiting() bool {
	b, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 {
			if n, err := strconv.Atoi(f[2]); err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}

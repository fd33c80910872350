package check

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Routing rules are copied as the kernel lists them: ip prints some in words that it does not
// take, as that about VRFs, and then ends without the rest of its batch.

// dumpPolicies returns the routing rules of the calling thread's namespace.
func dumpPolicies() ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	defer c.Close()
	const header = 12 // struct fib_rule_hdr
	asked := append([]byte{unix.AF_INET}, make([]byte, header-1)...)
	all, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETRULE, Flags: netlink.Request | netlink.Dump}, Data: asked})
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	return all, nil
}

// copyPolicies makes routing rules in the calling thread's namespace, but those that every
// namespace has.
func copyPolicies(all []netlink.Message) error {
	if len(all) == 0 {
		return nil
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("copy routing rules: %w", err)
	}
	defer c.Close()
	for _, m := range all {
		m.Header = netlink.Header{Type: unix.RTM_NEWRULE, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl}
		if _, err := c.Execute(m); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("copy a routing rule: %w", err)
		}
	}
	return nil
}

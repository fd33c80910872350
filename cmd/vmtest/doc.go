// Command vmtest boots Debian's kernel in a virtual machine and makes real PPP calls
// through the gateway there: pppd with MS-CHAPv2 and MPPE, two clients with the same Call
// ID (pptp-linux and the kernel's own module pptp), a pptpd, and pptpalg between them. Few
// build machines have a kernel with PPP, with nftables' queue statement, or with conntrack
// entries attached to queued packets.
//
// One program has all four roles:
//
//	on the machine   finds the kernel's package, makes an initramfs, starts qemu, reads the console
//	as process 1     loads the modules that lead to the machine's root file system, shared read-only
//	                 over 9p, puts memory where programs write, and starts the third
//	guest            builds the network of namespaces of cmd/internal/lab and makes the calls
//	call             is a client's control connection, with its GRE in the kernel
//
// The last line is "VM-TEST: PASS", or "VM-TEST: FAIL" with the reason; the exit code is 0 or 1.
package main

// Command vmtest boots Debian's kernel in a virtual machine and has real PPP calls
// made through the gateway there: pppd with MS-CHAPv2 and MPPE, two clients with the same
// Call ID, pptp-linux and the kernel's own module pptp, then pptpd, and pptpalg between
// them. Few machines that build programs have a kernel with PPP, or one with nftables'
// queue statement, or one that attaches conntrack entries to queued packets.
//
// One program is all four actors:
//
//	on the machine   finds the kernel's package, makes an initramfs, starts qemu, reads the console
//	as process 1     loads the modules that lead to the machine's root file system, shared read-only
//	                 over 9p, puts memory where programs write, and starts the third
//	guest            builds the network of namespaces of cmd/internal/lab and makes the calls
//	call             is a client's control connection, with its GRE in the kernel
//
// The last line is "VM-TEST: PASS", or "VM-TEST: FAIL" with the reason; the exit code is 0 or 1.
package main

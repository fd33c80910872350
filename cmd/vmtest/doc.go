// Command vmtest boots Debian's kernel in a virtual machine and has real PPP calls
// made through the gateway there: pppd with MS-CHAPv2 and MPPE, two pptp clients with
// the same Call ID, pptpd, and pptpalg between them. Few machines that build programs
// have a kernel with PPP, or one with nftables' queue statement.
//
// One program is all three actors:
//
//	on the machine   finds the kernel's package, makes an initramfs, starts qemu, reads the console
//	as process 1     loads the modules that lead to the machine's root file system, shared read-only
//	                 over 9p, puts memory where programs write, and starts the third
//	guest            builds the network of namespaces of cmd/internal/lab and makes the calls
//
// The last line is "VM-TEST: PASS", or "VM-TEST: FAIL" with the reason; the exit code is 0 or 1.
package main

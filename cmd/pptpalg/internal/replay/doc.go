// Package replay reads captures: it runs the packets of a pcap or pcapng file through the
// editor, without a kernel, and reports the control messages, the calls, and where their
// GRE went. It can write the packets as they look on the other side of a NAT.
//
// A capture shows one side of a gateway, here the inside:
//
//	          capture              written
//	             │                    │
//	inside ──────┴──── gateway ───────┴────── outside
//	       Call ID 7            Call ID 254
//
// What an inside host sends reaches the editor as it reached the gateway. What it receives
// has left the gateway already: the editor undoes what it would have done. So each packet
// of the capture becomes the packet that passed outside.
package replay

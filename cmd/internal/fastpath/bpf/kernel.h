// SPDX-License-Identifier: Apache-2.0
//
// What the fast path needs of the kernel's interface, and nothing else. It is compiled with
// neither libbpf's headers nor the kernel's, so the object depends on the compiler alone.
// All of it is ABI (include/uapi/linux/bpf.h).
#ifndef KERNEL_H
#define KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 be16;
typedef u32 be32;

#define SEC(name) __attribute__((section(name), used))
#define inline_ static inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16_(x) ((u16)__builtin_bswap16(x))
#else
#define be16_(x) ((u16)(x))
#endif

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_DEVMAP = 14 };
enum { NO_PREALLOC = 1, MMAPABLE = 1 << 10 };
enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };
enum { TCX_NEXT = -1, TCX_PASS = 0, TCX_DROP = 2 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex;
	u32 ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4;
	u32 remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*ktime)(void) = (void *)5;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*skb_change_tail)(struct __sk_buff *skb, u32 len, u64 flags) = (void *)38;
static long (*skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)39;
static long (*skb_change_head)(struct __sk_buff *skb, u32 len, u64 flags) = (void *)43;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static u64 (*ktime_coarse)(void) = (void *)160;

struct ethernet { u8 to[6], from[6]; be16 type; };
struct ipv4 { u8 version, tos; be16 length, id, fragment; u8 ttl, protocol; be16 checksum; be32 src, dst; };
struct gre { u8 flags, version; be16 protocol, length, id; };

#endif

// SPDX-License-Identifier: Apache-2.0
//
// The fast path: GRE of calls, forwarded as the kernel has been seen to forward it.
//
//	          no flow, expired, unlike, too long …
//	receive ──────────────────────────────────────► the kernel: conntrack entry, FORWARD,
//	   │ forward / forward_skb                      routing, neighbour, MTU, …
//	   │ a flow that is in force                            │
//	   ▼                                                    ▼ learn
//	transmit ◄───────────────────────────────────── transmit, of what has a flow
//
// A packet of a flow that the kernel has translated and sent puts the flow in force, until
// `interval` has passed or `generation` changes. So routes, policy routing, the firewall and
// neighbours hold here without being asked: no more is done than what the kernel was seen to
// do. Every other packet goes on to the kernel untouched.
//
// Flows lie in an array, each in one line of the processor's cache, found by open
// addressing: with a hash map a packet would touch three lines and as many pages. The
// daemon alone puts flows in and takes them out.
//
// Whoever changes a structure here counts LAYOUT up.
#include "kernel.h"

enum { LAYOUT = 2 };

// way is what a packet carries.
struct way {
	be32 src, dst;
	be16 id;
	u8 state; // with id in one word, which the daemon writes at once
	u8 in;    // number of the port by which it comes
};

// The states of a place. A search ends where there never was a flow. A flow is a SHADOW
// while a later one leaves alike: learn could not tell their packets apart.
enum { NEVER, LIVE, GONE, SHADOW };

// flow is what becomes of packets of one way.
struct flow {
	struct way way;
	be16 new_id;
	u16 sum;            // by which the checksum differs for the new addresses
	be32 new_src, new_dst;
	u16 longest;        // packet that the kernel has sent whole; 0: nothing is learnt
	u8 tos;             // DSCP, and MARKED
	u8 out;             // number of the port by which it leaves
	u8 from[6];         // link address of who sent it to the gateway; zeros without a link header
	u16 generation;     // of the decision; 0: none is in force
	u8 to[6];           // link address to which it leaves
	u16 seen;           // of 2^14 ns: the last packet after until
	u32 until;          // of 2^20 ns: the kernel's decision is in force
	u64 packets, bytes; // forwarded here
};

// sent is a flow as its packets leave.
struct sent {
	u32 place;
	u16 generation;     // when the packet that is on its way through the kernel was let go; 0: none was
	u8 ttl, tos;        // of that packet
	u8 from[6];
	be16 fragment;
	u8 turns, zero[3];
	u32 mark, priority;
	u32 quiet;          // since when the flow is out of force because the decision has changed; 0: it is not
	u32 alike;          // when a packet was let go that learn could take for another one's; 0: never
};

struct leaves { be32 src, dst; be16 id; u16 zero; };

// port is an interface. What it sends can come from XDP, from tc, or from neither.
struct port {
	u32 ifindex; // 0: no port
	u8 mac[6];
	u8 xdp, tc;
	u8 head;     // length of its link header, 14 or 0
	u8 clsact;   // for Load: how it is attached
	u8 zero[2];
};

// control is what the daemon and Load say.
struct control {
	u32 layout, places;
	u64 secret[2];
	u32 interval;   // of 2^20 ns
	u32 generation; // of the gateway's rules and routes; its lower half is never 0
	u32 retired;    // nothing is attached with these maps any more
	u32 zero;
};

enum { PORTS = 64, PLACES = 1 << 16, PROBES = 64, MARKED = 1 };

// What is counted: packets that were forwarded here, decisions, and why others were let go.
enum event {
	BY_XDP, BY_TC, LEARNT,
	EXPIRED, LONGER, ELSEWHERE,                  // let go for the decision to be learnt
	HOP, UNLIKE, BROKEN, CUT, OTHERS, ALIKE,     // let go
	CHANGED, ALTERED, UNWATCHED,                 // came through the kernel and were not learnt
	EVENTS
};

// What take returns beside events.
enum { TAKEN = EVENTS, NO_FLOW, UNTOLD };

// What learn is told of a packet that is let go for one of these.
enum { TOLD = 1 << EXPIRED | 1 << LONGER | 1 << ELSEWHERE | 1 << UNTOLD };

struct { __uint(type, MAP_ARRAY); __uint(max_entries, PLACES); __uint(map_flags, MMAPABLE); __type(key, u32); __type(value, struct flow); } flows SEC(".maps");
struct { __uint(type, MAP_HASH); __uint(max_entries, PLACES / 2); __uint(map_flags, NO_PREALLOC); __type(key, struct leaves); __type(value, struct sent); } leaving SEC(".maps");
struct { __uint(type, MAP_ARRAY); __uint(max_entries, PORTS); __type(key, u32); __type(value, struct port); } ports SEC(".maps");
struct { __uint(type, MAP_DEVMAP); __uint(max_entries, PORTS); __type(key, u32); __type(value, u32); } out SEC(".maps");
struct { __uint(type, MAP_PERCPU_ARRAY); __uint(max_entries, EVENTS); __type(key, u32); __type(value, u64); } events SEC(".maps");

volatile const u32 PORT = 0;                // where this copy of the programs is attached
volatile const u32 HEAD = 14;               // its link header: 0 for PPP and tunnels
volatile const u32 MASK = PLACES - 1;
volatile const u64 SECRET[2] = {1, 2};      // of the hash: senders of packets do not know it
volatile struct control said SEC(".data") = {LAYOUT};

enum { GAP = 4, LONG_GAP = 1 << 15 };       // of 2^14 ns
enum { OURS = 0x70707470 };                 // in skb->cb: forwarded here, or seen by learn
enum { QUIESCENT = 10 };                    // of 2^20 ns: nobody uses what was read so long ago
enum { PASSED = 1000 };                     // of 2^20 ns: what was let go so long ago has left the kernel
enum { SHORTEST = 60 };                     // Ethernet frame that every driver sends

inline_ void count(u32 what)
{
	u64 *n = map_lookup(&events, &what);
	if (n)
		*n += 1;
}

// barrier has other processors see what was written before it ahead of what is written behind it. Only an
// atomic operation whose result is used orders memory on all machines.
inline_ void barrier(struct flow *f)
{
	u64 was = __sync_fetch_and_add(&f->packets, 0);
	asm volatile("" : : "r"(was));
}

// millis is of 2^20 ns, and never 0.
inline_ u32 millis(void)
{
	u32 now = ktime_coarse() >> 20;
	return now ? now : 1;
}

// of_call says whether it is a call's packet, as far as it tells itself.
inline_ int of_call(struct ipv4 *ip, struct gre *g)
{
	return ip->version == 0x45 && !(ip->fragment & be16_(0x3fff)) && (g->flags & 0xef) == 0x20 && (g->version & 0x7f) == 1 && g->protocol == be16_(0x880b);
}

// intact says whether the checksum is right. The kernel drops a packet if it is not.
inline_ int intact(struct ipv4 *ip)
{
	u32 *w = (u32 *)ip;
	u64 sum = (u64)w[0] + w[1] + w[2] + w[3] + w[4];
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

// home is where the search for a flow begins. Call IDs are often numbered one after the
// other: each input bit must reach each output bit, or runs of flows lie side by side.
inline_ u32 home(be32 src, be32 dst, be16 id)
{
	u64 h = ((u64)src << 32 | dst) ^ SECRET[0];
	h *= 0x9e3779b97f4a7c15ull;
	h ^= h >> 32;
	h = (h ^ id) + SECRET[1];
	h *= 0xff51afd7ed558ccdull;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ull;
	return h >> 32;
}

inline_ struct flow *find(be32 src, be32 dst, be16 id)
{
	u32 at = home(src, dst, id);
	for (int i = 0; i < PROBES; i++, at++) {
		u32 place = at & MASK;
		struct flow *f = map_lookup(&flows, &place);
		if (!f || f->way.state == NEVER)
			return 0;
		if (f->way.src == src && f->way.dst == dst && f->way.id == id && f->way.state != GONE)
			return f;
	}
	return 0;
}

inline_ struct sent *sent_of(be32 src, be32 dst, be16 id)
{
	struct leaves k = { .src = src, .dst = dst, .id = id };
	return map_lookup(&leaving, &k);
}

// same compares link addresses.
inline_ int same(const u8 *a, const u8 *b)
{
	return *(u32 *)a == *(u32 *)b && *(u16 *)(a + 4) == *(u16 *)(b + 4);
}

// let_go leaves a packet of a flow to the kernel, and tells learn what the packet was like. e
// is null without a link header.
//
// learn does not see who sent a packet. So if the sender has changed, it learns nothing until
// the earlier packets have left: or one that the firewall drops could be let go while another
// sender's passes, and the flow be taken for the wrong one's.
inline_ void let_go(struct flow *f, struct ipv4 *ip, struct ethernet *e, u32 why)
{
	struct sent *s;
	u32 from = 0;
	u16 rest = 0;
	if (why < EVENTS)
		count(why);
	if (why != ALIKE && !(TOLD >> why & 1))
		return;
	s = sent_of(f->new_src, f->new_dst, f->new_id);
	if (!s)
		return;
	if (why == ALIKE) { // learn could take it for the later flow's
		s->alike = millis();
		return;
	}
	if (e)
		from = *(u32 *)e->from, rest = *(u16 *)(e->from + 4);
	if (*(u32 *)s->from != from || *(u16 *)(s->from + 4) != rest) {
		if (s->generation)
			__sync_lock_test_and_set(&s->alike, millis()); // before what follows
		*(u32 *)s->from = from;
		*(u16 *)(s->from + 4) = rest;
	}
	s->ttl = ip->ttl;
	s->tos = ip->tos;
	s->fragment = ip->fragment;
	s->generation = said.generation;
}

// expired says whether the kernel is to decide anew. Where frames leave in bulk (XDP), a
// packet that the kernel forwards overtakes those that wait for the end of the poll, and is
// overtaken by those behind it. So the kernel gets one that comes after a pause, if there is
// one for as long as the decision was in force, and what follows until the clock's next tick.
// Times are compared without sign: a flow that was silent until the clock has gone round is
// not in force.
inline_ int expired(struct flow *f, int bulk)
{
	u32 now = millis(), left = f->until - now, interval = said.interval;
	u16 clock, gap;
	if (left - 1 < interval)
		return bulk && left == interval;
	if (!bulk || now - f->until >= interval)
		return 1;
	clock = ktime() >> 14;
	gap = clock - f->seen;
	f->seen = clock;
	if (gap < GAP || gap > LONG_GAP)
		return 0;
	f->until = now - interval; // so all that follow are let go, until it is learnt
	return 1;
}

// taken is a packet's flow, and the ports by which it came and leaves.
struct taken {
	struct flow *flow;
	struct port *here, *there;
};

// take returns TAKEN if a packet is to be forwarded here, else why not. room is how much of
// the packet is there. e is null without a link header.
inline_ u32 take(struct taken *t, struct ipv4 *ip, struct gre *g, u32 room, int xdp, struct ethernet *e)
{
	u32 number = PORT, len = be16_(ip->length);
	struct flow *f = find(ip->src, ip->dst, g->id);
	if (!f)
		return NO_FLOW;
	t->flow = f;
	t->here = map_lookup(&ports, &number);
	if (!t->here)
		return NO_FLOW;
	if (xdp && !same(e->to, t->here->mac)) // else the kernel has told by pkt_type
		return OTHERS;
	if (f->way.state == SHADOW)
		return ALIKE;
	if (len > room || len < 28)
		return CUT;
	if (ip->ttl <= 1)
		return HOP;
	if (!intact(ip))
		return BROKEN;
	if (f->generation != (u16)said.generation)
		return EXPIRED;
	number = f->out;
	t->there = map_lookup(&ports, &number);
	if (!t->there || !t->there->ifindex || !(xdp ? t->there->xdp : t->there->tc))
		return UNTOLD; // its way out takes nothing from here
	if (expired(f, xdp))
		return EXPIRED;
	if (f->way.in != PORT || (e && !same(e->from, f->from)))
		return ELSEWHERE;
	if (len > f->longest)
		return LONGER;
	if ((f->tos ^ ip->tos) & 0xfc)
		return UNLIKE;
	return TAKEN;
}

// edit does to a packet what the kernel would (RFC 1624).
inline_ void edit(struct flow *f, struct ipv4 *ip, struct gre *g)
{
	u32 sum = (u16)~ip->checksum + f->sum + be16_(0xfeff); // the TTL's byte less one
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	__sync_fetch_and_add(&f->packets, 1);
	__sync_fetch_and_add(&f->bytes, be16_(ip->length));
	ip->checksum = ~sum;
	ip->ttl--;
	ip->src = f->new_src;
	ip->dst = f->new_dst;
	g->id = f->new_id;
}

// blank puts zeros behind a packet in the shortest frame. What stands there is the sender's,
// and the kernel would not send it. Two stores do for all but a few lengths.
inline_ void blank(u8 *at, u8 *end, u32 len)
{
	u8 *behind;
	if (len > SHORTEST - 8) {
		for (u32 i = SHORTEST - 7; i < SHORTEST; i++)
			if (i >= len)
				at[i] = 0;
		return;
	}
	asm volatile("" : "+r"(len)); // the compiler knows what the verifier does not: len is below 64,
	behind = at + (len & 63);
	asm volatile("" : "+r"(behind));
	if (behind + 8 > end) // and this is never so
		return;
	*(u64 *)behind = 0;
	*(u64 *)(at + SHORTEST - 8) = 0;
	if (len < SHORTEST - 16 && behind + 10 <= end) // no GRE of a call is shorter than 42
		*(u16 *)(behind + 8) = 0;
}

SEC("xdp")
int forward(struct xdp_md *ctx)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *e = at;
	struct ipv4 *ip = at + 14;
	struct gre *g = at + 34;
	struct taken t = {};
	u32 frame, wanted, why;
	if ((void *)(g + 1) > end || e->type != be16_(0x0800) || ip->protocol != 47 || !of_call(ip, g))
		return XDP_PASS;
	frame = (u32)(end - at);
	why = take(&t, ip, g, frame - 14, 1, e);
	if (why != TAKEN) {
		if (why == OTHERS || (why != NO_FLOW && !t.here->tc)) // or forward_skb is the next to see it
			let_go(t.flow, ip, e, why);
		return XDP_PASS;
	}
	wanted = 14 + be16_(ip->length);
	edit(t.flow, ip, g);
	__builtin_memcpy(e->to, t.flow->to, 6);
	__builtin_memcpy(e->from, t.there->mac, 6);
	if (wanted < SHORTEST && at + SHORTEST <= end) { // the kernel would send it without padding, and its driver would pad it
		blank(at, end, wanted);
		wanted = SHORTEST;
	}
	if (frame > wanted)
		xdp_adjust_tail(ctx, (int)(wanted - frame));
	count(BY_XDP);
	return redirect_map(&out, t.flow->out, XDP_DROP);
}

SEC("tcx/ingress")
int forward_skb(struct __sk_buff *skb)
{
	struct ipv4 *ip;
	struct gre *g;
	struct ethernet *e;
	struct taken t = {};
	struct sent *s;
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 head = HEAD, wanted, why, mark = 0, priority = 0;
	if (skb->protocol != be16_(0x0800) || skb->pkt_type)
		return TCX_NEXT; // IPv4, for this machine
	ip = at + head;
	g = at + head + 20;
	if ((void *)(ip + 1) > end) { // a driver may leave all but the Ethernet header in pages
		if (skb_pull_data(skb, head + 28))
			return TCX_NEXT;
		at = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
		ip = at + head, g = at + head + 20;
		if ((void *)(ip + 1) > end)
			return TCX_NEXT;
	}
	if (ip->protocol != 47)
		return TCX_NEXT;
	if ((void *)(g + 1) > end) {
		if (skb_pull_data(skb, head + 28))
			return TCX_NEXT;
		at = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
		ip = at + head, g = at + head + 20;
		if ((void *)(g + 1) > end)
			return TCX_NEXT;
	}
	if (!of_call(ip, g) || skb->gso_segs > 1 || skb->vlan_present)
		return TCX_NEXT;
	e = head ? at : 0;
	why = take(&t, ip, g, skb->len - head, 0, e);
	if (why != TAKEN) {
		if (why != NO_FLOW)
			let_go(t.flow, ip, e, why);
		return TCX_NEXT;
	}
	wanted = head + be16_(ip->length);
	edit(t.flow, ip, g);
	count(BY_TC);
	if (skb->len > wanted && skb_change_tail(skb, wanted, 0))
		return TCX_DROP;
	if (t.there->head) {
		if (!head && skb_change_head(skb, 14, 0))
			return TCX_DROP;
		e = at = (void *)(long)skb->data;
		if (at + 14 > (void *)(long)skb->data_end)
			return TCX_DROP;
		__builtin_memcpy(e->to, t.flow->to, 6);
		__builtin_memcpy(e->from, t.there->mac, 6);
		e->type = be16_(0x0800);
	}
	if (t.flow->tos & MARKED) {
		s = sent_of(t.flow->new_src, t.flow->new_dst, t.flow->new_id);
		if (s)
			mark = s->mark, priority = s->priority;
	}
	skb->mark = mark; // not those with which it came
	skb->priority = priority;
	skb->cb[0] = OURS;
	return redirect(t.there->ifindex, 0);
}

// port_of returns the number of the port with an interface, PORTS for none.
inline_ u32 port_of(u32 ifindex)
{
	for (u32 i = 0; i < PORTS; i++) {
		u32 n = i;
		struct port *p = map_lookup(&ports, &n);
		if (p && p->ifindex == ifindex)
			return i;
	}
	return PORTS;
}

SEC("tcx/egress")
int learn(struct __sk_buff *skb)
{
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 head = HEAD;
	struct ipv4 *ip = at + head;
	struct gre *g = (void *)(ip + 1);
	struct sent *s;
	struct flow *f;
	struct port *here;
	u32 now, in, changed, place, alike, number = PORT;
	u32 to[2] = {}, own[2] = {}, from[2] = {}; // link addresses
	u16 len;
	if (skb->protocol != be16_(0x0800) || (void *)(g + 1) > end || ip->protocol != 47 || !of_call(ip, g))
		return TCX_NEXT; // the kernel has pulled the headers that it has translated
	if (head) {
		__builtin_memcpy(to, at, 6);
		__builtin_memcpy(own, at + 6, 6);
	}
	s = sent_of(ip->src, ip->dst, g->id);
	if (!s || !s->generation || skb->cb[0] == OURS || !skb->ingress_ifindex || skb->gso_segs > 1 || skb->vlan_present)
		return TCX_NEXT;
	place = s->place;
	f = map_lookup(&flows, &place);
	if (!f || f->way.state != LIVE || f->new_src != ip->src || f->new_dst != ip->dst || f->new_id != g->id)
		return TCX_NEXT;
	here = map_lookup(&ports, &number);
	if (!here)
		return TCX_NEXT;
	// Where this is a macvlan, its parent may be a port as well. It is the next to send the
	// packet, and must not take the flow for its own.
	skb->cb[0] = OURS;
	now = millis();
	__builtin_memcpy(from, s->from, 6);
	alike = __sync_fetch_and_add(&s->alike, 0); // after the sender: see let_go
	if (alike && now - alike < PASSED) {
		count(ALIKE);
		return TCX_NEXT;
	}
	if ((u8)(ip->ttl + 1) != s->ttl || ip->tos != s->tos || ip->fragment != s->fragment ||
	    (head && !same((u8 *)own, here->mac))) { // the port's is what forward writes
		count(ALTERED);
		return TCX_NEXT;
	}
	in = port_of(skb->ingress_ifindex);
	if (in == PORTS) {
		count(UNWATCHED);
		return TCX_NEXT;
	}
	len = be16_(ip->length);
	changed = f->way.in != in || f->out != PORT || s->mark != skb->mark || s->priority != skb->priority ||
		  !same(f->to, (u8 *)to) || !same(f->from, (u8 *)from);
	if (changed) {
		if (f->longest) { // another processor may be reading what there is
			f->generation = 0;
			if (!s->quiet) {
				s->quiet = now;
				count(CHANGED);
			}
			if (now - s->quiet < QUIESCENT)
				return TCX_NEXT;
		}
		f->generation = 0;
		f->way.in = in;
		f->out = PORT;
		__builtin_memcpy(f->to, to, 6);
		__builtin_memcpy(f->from, from, 6);
		s->mark = skb->mark;
		s->priority = skb->priority;
		f->longest = 0;
	}
	s->quiet = 0;
	if (f->generation && f->generation == s->generation && f->until - now - 1 < said.interval) {
		if (len > f->longest)
			f->longest = len;
		return TCX_NEXT;
	}
	if (f->generation != s->generation || !(++s->turns & 15)) // the MTU may be another, told or untold
		f->longest = 0;
	if (len > f->longest)
		f->longest = len;
	f->tos = (ip->tos & 0xfc) | (s->mark || s->priority ? MARKED : 0);
	f->until = now + said.interval;
	count(LEARNT);
	barrier(f);
	f->generation = s->generation;
	return TCX_NEXT;
}

char _license[] SEC("license") = "Apache-2.0";

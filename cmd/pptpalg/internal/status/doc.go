// Package status owns the status page: what a browser shows of a running daemon, and the
// JSON behind it.
//
//	GET /            the page; it asks for the following every two seconds
//	GET /api/status  a Status: health, what is wrong, and sums over all calls
//	GET /api/calls   a List: some of the calls, as the query says
//
// The query of /api/calls is sort=KEY (age, client, call_id, public, server, server_id,
// state, rate, to_client, to_server; -KEY for the other way round), filter=WORDS (calls
// that have each of the words: a piece of "address/Call ID" of either end in either form or
// of the state, or the network of an end), limit=N (1 to 1000, default 200) and offset=N. What
// is wrong is answered by 400 and words.
//
// All viewers share one look at the call table and the kernel's counts. It is taken when
// somebody asks, at most each second and for at most a tenth of the time.
package status

// Package status owns the status page: what a browser shows of a running daemon, and the
// JSON behind it.
//
//	GET /            the page; it asks for the following every two seconds
//	GET /api/status  a Status: health, what is wrong, and sums over all calls
//	GET /api/calls   a List: some of the calls, as the query says
//	GET /api/explain  an Explanation: why the calls of client=ADDRESS do not work
//	GET /api/history  a History: calls and traffic of the last hour
//
// The query of /api/calls is sort=KEY (age, client, call_id, public, server, server_id,
// state, rate, to_client, to_server; -KEY for reverse order), filter=WORDS (calls that
// match each of the words: a part of "address/Call ID" of either end in either form or of
// the state, or the network of an end), limit=N (1 to 1000, default 200) and offset=N. The
// reply to a wrong query is 400 with the reason.
//
// All viewers share one copy of the call table and the kernel's counts. It is read on
// request, at most once a second and for at most a tenth of the time.
package status

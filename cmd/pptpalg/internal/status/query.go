package status

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/meter"
)

const (
	defaultLimit = 200
	mostLimit    = 1000
	mostFilter   = 200 // bytes
)

// query is a request of /api/calls.
type query struct {
	sort     string // of compares
	reversed bool
	words    []word
	offset   int
	limit    int
}

// compares are the orders: the most interesting calls come first.
var compares = map[string]func(a, b *row) int{
	"age":       func(a, b *row) int { return b.Since.Compare(a.Since) },
	"number":    func(a, b *row) int { return cmp.Compare(a.Number, b.Number) },
	"client":    func(a, b *row) int { return compareEnds(a.client, b.client) },
	"call_id":   func(a, b *row) int { return cmp.Compare(a.client.Own, b.client.Own) },
	"public":    func(a, b *row) int { return comparePublic(a.client, b.client) },
	"server":    func(a, b *row) int { return compareEnds(a.server, b.server) },
	"server_id": func(a, b *row) int { return cmp.Compare(a.server.Own, b.server.Own) },
	"state":     func(a, b *row) int { return cmp.Or(cmp.Compare(a.State, b.State), cmp.Compare(b.how.Kind, a.how.Kind)) },
	"rate": func(a, b *row) int {
		return cmp.Compare(b.toClient.bytes()+b.toServer.bytes(), a.toClient.bytes()+a.toServer.bytes())
	},
	"to_client": func(a, b *row) int { return compareWays(a.toClient, b.toClient) },
	"to_server": func(a, b *row) int { return compareWays(a.toServer, b.toServer) },
}

func compareEnds(a, b *calls.Party) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Own, b.Own))
}

func comparePublic(a, b *calls.Party) int {
	return cmp.Or(a.Endpoint.Public.Compare(b.Endpoint.Public), cmp.Compare(a.Public, b.Public))
}

// compareWays goes by the rate, and by all that was carried where it is the same.
func compareWays(a, b way) int {
	return cmp.Or(cmp.Compare(b.bytes(), a.bytes()), cmp.Compare(b.total(), a.total()))
}

func (w way) total() uint64 {
	if w.carried == nil {
		return 0
	}
	return w.carried.Bytes
}

// parseQuery says what is wrong with a query.
func parseQuery(v url.Values) (q query, err error) {
	q = query{sort: "age", limit: defaultLimit}
	if s := v.Get("sort"); s != "" {
		q.sort, q.reversed = strings.CutPrefix(s, "-")
	}
	if _, ok := compares[q.sort]; !ok {
		return q, fmt.Errorf("sort: %q is none of %s", q.sort, strings.Join(slices.Sorted(maps.Keys(compares)), ", "))
	}
	if q.offset, err = number(v, "offset", 0, 1<<30); err != nil {
		return q, err
	}
	if q.limit, err = number(v, "limit", 1, mostLimit); err != nil {
		return q, err
	}
	if v.Get("limit") == "" {
		q.limit = defaultLimit
	}
	filter := v.Get("filter")
	if len(filter) > mostFilter {
		return q, fmt.Errorf("filter: longer than %d bytes", mostFilter)
	}
	for _, text := range strings.Fields(filter) {
		q.words = append(q.words, newWord(text))
	}
	return q, nil
}

// number returns a number of the query, least if it is not given.
func number(v url.Values, name string, least, most int) (int, error) {
	text := v.Get(name)
	if text == "" {
		return least, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s: %q is not a number from %d to %d", name, text, least, most)
	}
	return n, nil
}

// word is one of a filter.
type word struct {
	text    []byte
	network netip.Prefix // invalid if it is none
}

func newWord(text string) word {
	w := word{text: []byte(strings.ToLower(text))}
	// 10.0.0.0/8 is a network, 10.0.0.10/7 an address with a Call ID.
	if p, err := netip.ParsePrefix(text); err == nil && p == p.Masked() {
		w.network = p
	}
	return w
}

// matches reports whether a row, written as line, has the word.
func (w word) matches(r *row, line []byte) bool {
	return bytes.Contains(line, w.text) || w.network.Contains(r.client.Address) || w.network.Contains(r.server.Address)
}

// appendLine writes what words are looked for in.
func (r *row) appendLine(b []byte) []byte {
	for _, p := range [...]*calls.Party{r.client, r.server} {
		b = appendEnd(b, p.Address, uint16(p.Own), p.Known)
		b = appendEnd(b, p.Endpoint.Public, uint16(p.Public), p.Known)
	}
	return append(b, r.state()...)
}

// state is a call's state, and what it is called where it does not carry.
func (r *row) state() string {
	switch r.how.Kind {
	case meter.OneWay:
		return "established one-way"
	case meter.Silent:
		return "established silent"
	}
	return r.State.String()
}

func appendEnd(b []byte, a netip.Addr, id uint16, known bool) []byte {
	b = append(a.AppendTo(b), '/')
	if known {
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	return append(b, ' ')
}

// find returns the rows that a query asks for, and how many match it in all.
func (s *snapshot) find(q query) (found []*row, matching int) {
	order := s.order(q.sort)
	var line []byte
	for i := range order {
		if q.reversed {
			i = len(order) - 1 - i
		}
		r := &s.rows[order[i]]
		if len(q.words) > 0 {
			line = r.appendLine(line[:0])
			if slices.ContainsFunc(q.words, func(w word) bool { return !w.matches(r, line) }) {
				continue
			}
		}
		if matching >= q.offset && len(found) < q.limit {
			found = append(found, r)
		}
		matching++
	}
	return found, matching
}

// order returns the rows' places in an order. It is made once for all viewers.
func (s *snapshot) order(by string) []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if made, ok := s.orders[by]; ok {
		return made
	}
	order := make([]int32, len(s.rows))
	for i := range order {
		order[i] = int32(i)
	}
	compare := compares[by]
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(compare(&s.rows[a], &s.rows[b]), cmp.Compare(a, b))
	})
	s.orders[by] = order
	return order
}

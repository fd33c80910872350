package history

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"pptpalg/alg/pptp"
)

// Query selects Records. What is zero selects all.
type Query struct {
	Since, Until time.Time // of the event; Until itself is out
	Client       Party     // as itself has it
	Server       Party     // as itself has it, or as the client sees it
	Public       Party     // of either end, as the other end sees it
}

// Party is an address, perhaps with a port or a Call ID: what a complaint tells of an end.
type Party struct {
	Addr netip.Addr
	Port uint16 // of the control connection; 0 for any
	ID   *pptp.CallID
}

// ParseParty reads ADDRESS[:PORT][/CALL ID], the form in which events print an end.
func ParseParty(text string) (Party, error) {
	var p Party
	end, id, hasID := strings.Cut(text, "/")
	if hasID {
		n, err := strconv.ParseUint(id, 10, 16)
		if err != nil {
			return Party{}, fmt.Errorf("%q is not a Call ID from 0 to 65535", id)
		}
		callID := pptp.CallID(n)
		p.ID = &callID
	}
	if strings.Count(end, ":") > 1 { // of IPv6, whose colons begin no port
		return Party{}, fmt.Errorf("%q is not an IPv4 address", end)
	}
	address, port, hasPort := strings.Cut(end, ":")
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Party{}, fmt.Errorf("%q is not a port from 1 to 65535", port)
		}
		p.Port = uint16(n)
	}
	addr, err := netip.ParseAddr(address)
	if err != nil || !addr.Is4() {
		return Party{}, fmt.Errorf("%q is not an IPv4 address", address)
	}
	p.Addr = addr
	return p, nil
}

// is reports whether an end may be the party.
func (p Party) is(end netip.AddrPort, id *pptp.CallID) bool {
	switch {
	case !p.Addr.IsValid():
		return true
	case end.Addr() != p.Addr, p.Port != 0 && p.Port != end.Port():
		return false
	}
	return p.ID == nil || id != nil && *id == *p.ID
}

// Selects reports whether the query wants a record. One that stands for lost events may
// stand for events of any call.
func (q *Query) Selects(r *Record) bool {
	if r.Time.Before(q.Since) || !q.Until.IsZero() && !r.Time.Before(q.Until) {
		return false
	}
	return r.Event == Lost || q.selectsCall(r.CallRecord)
}

func (q *Query) selectsCall(c *CallRecord) bool {
	if c == nil {
		return !q.OfCalls()
	}
	return q.Client.is(c.Client, c.ClientCallID) &&
		(q.Server.is(c.Server, c.ServerCallID) || q.Server.is(c.ServerPublic, c.ServerPublicCallID)) &&
		(q.Public.is(c.ClientPublic, c.ClientPublicCallID) || q.Public.is(c.ServerPublic, c.ServerPublicCallID))
}

// OfCalls reports whether the query wants certain calls only.
func (q *Query) OfCalls() bool {
	return q.Client.Addr.IsValid() || q.Server.Addr.IsValid() || q.Public.Addr.IsValid()
}

// Up finds the calls that were up at a time: opened by then, and not closed before.
type Up struct {
	at    time.Time
	query Query
	open  map[uint64][]Record // of calls that may be among them, by number
	found [][]Record
}

// UpAt returns an Up that has seen no record. Of the query, the times do not count.
func UpAt(at time.Time, q Query) *Up {
	q.Since, q.Until = time.Time{}, time.Time{}
	return &Up{at: at, query: q, open: make(map[uint64][]Record)}
}

// Add takes the next record. Records come in the order of their times.
func (u *Up) Add(r Record) {
	switch {
	case r.Event == Lost && !r.Time.After(u.at):
		u.found = append(u.found, []Record{r}) // perhaps of a call that was up
	case r.CallRecord == nil:
	case r.Closing != nil:
		u.close(r)
	case r.Time.After(u.at) && u.open[r.Call] == nil: // opened later
	case r.Event == Opened:
		u.begin(r)
	default:
		u.open[r.Call] = append(u.open[r.Call], r)
	}
}

// begin begins a call. A gateway that lost its journal gives numbers out again: the end of
// the call that had the number before is not on record.
func (u *Up) begin(r Record) {
	if !r.Time.After(u.at) {
		u.open[r.Call] = []Record{r}
		return
	}
	u.keep(u.open[r.Call])
	delete(u.open, r.Call)
}

func (u *Up) close(r Record) {
	call := append(u.open[r.Call], r)
	delete(u.open, r.Call)
	if !r.Opened.After(u.at) && r.Time.After(u.at) {
		u.keep(call)
	}
}

// keep keeps a call that was up if one of its records is of who is asked for.
func (u *Up) keep(call []Record) {
	if slices.ContainsFunc(call, func(r Record) bool { return u.query.Selects(&r) }) {
		u.found = append(u.found, call)
	}
}

// Records returns the records of the calls that were up, call by call, and those that stand
// for events that were lost before.
func (u *Up) Records() []Record {
	for _, call := range u.open {
		u.keep(call)
	}
	clear(u.open)
	slices.SortFunc(u.found, func(a, b []Record) int {
		return cmp.Or(a[0].Time.Compare(b[0].Time.Time), cmp.Compare(number(a[0]), number(b[0])))
	})
	return slices.Concat(u.found...)
}

func number(r Record) uint64 {
	if r.CallRecord == nil {
		return 0
	}
	return r.Call
}

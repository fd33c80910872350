package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/meter"
)

func callsCommand(e env) *cobra.Command {
	var watch bool
	var o output
	var dir string
	w := watcher{out: e.stdout, lookup: e.lookup}
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "Print the running daemon's calls, or end one",
		Long: `Print the running daemon's calls once, or repeatedly with --watch, which also shows each
call's rate in each direction. CALL is the call's number, CLIENT the end that opened the
control connection, SERVER the other end, each as address/Call ID. PUBLIC is the address
and Call ID that the other end sees instead. TO CLIENT and TO SERVER are the GRE packets
and bytes sent to that end, "-" if they are not counted.

The column PUBLIC after SERVER appears if a server is behind NAT; --output wide always
shows it, and the control connection. On a narrow terminal the less important columns
are left out.

STATE is one-way instead of established if GRE has come from one end only for about ten
seconds, and silent if neither end has sent any GRE within ten seconds of the call's
set-up. "pptpalg explain CLIENT" says why.

--sort rate needs two looks at the calls: the table comes after --interval, and shows rates
as --watch does.

--filter shows the calls that match all of its words. A word matches a part of an address,
of "address/Call ID", of the state or of the control connection; a network such as
10.77.0.0/24 matches the calls that have an end in it.

Packets are counted if net.netfilter.nf_conntrack_acct was 1 when the call was set up, or
if the daemon translates GRE (--datapath queue).`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w.calls, w.wide = admin.Client{StateDir: dir}.Calls, o.form == formWide
			switch {
			case w.interval <= 0:
				return usagef("--interval: %v is not greater than 0", w.interval)
			case watch && o.structured():
				return usagef("--output %s and --watch cannot be used together", o.form)
			case watch:
				return w.Run(cmd.Context())
			}
			return printOnce(cmd, &w, &o)
		},
	}
	o.addTo(cmd, formTable, formWide, formJSON, formYAML)
	f := cmd.Flags()
	f.BoolVarP(&watch, "watch", "w", false, "show a live table (q or Ctrl-C quits); if standard output is not a terminal, print one table after another")
	f.DurationVar(&w.interval, "interval", time.Second, "refresh interval of --watch, and how long --sort rate measures")
	f.Var(&w.sort, "sort", "order: "+strings.Join(orders(), ", ")+"; a leading \"-\" reverses the order; the default is number, and age with --watch")
	config.OneOf(f, "sort", orders()...)
	_ = cmd.RegisterFlagCompletionFunc("sort", completeOrder) // the flag exists
	f.StringVar(&w.filter, "filter", "", "show only calls that match all of these words")
	cmd.MarkFlagsMutuallyExclusive("watch", "json")
	cmd.AddCommand(callsEndCommand(e))
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	return cmd
}

// printOnce prints the calls of now.
func printOnce(cmd *cobra.Command, w *watcher, o *output) error {
	all, err := w.once(cmd.Context())
	if err != nil {
		return err
	}
	if o.structured() {
		listed := make([]admin.Listed, len(all))
		for i := range all {
			listed[i].Call = all[i].Call
		}
		return o.print(cmd.OutOrStdout(), listed)
	}
	t := callTable(all, time.Now(), callColumns{wide: w.wide, rates: w.byRate()})
	term := terminalOf(cmd.OutOrStdout(), w.lookup)
	if err := t.print(cmd.OutOrStdout(), term); err != nil {
		return fmt.Errorf("print calls: %w", err)
	}
	if term.is() {
		_, err = io.WriteString(cmd.OutOrStdout(), trouble(all))
	}
	return err
}

// row is a call in a table.
type row struct {
	admin.Call
	client, server     *admin.Party // client is who opened the control connection
	toClient, toServer *admin.Traffic
	src, dst           netip.AddrPort
	rateClient         *admin.Traffic // per second; nil where it is not known
	rateServer         *admin.Traffic
}

func newRow(c admin.Call) *row {
	r := &row{Call: c, toClient: c.ToPNS, toServer: c.ToPAC}
	// The daemon's addresses can be parsed; if not, the call is sorted first.
	r.src, _ = netip.ParseAddrPort(c.Control.Src)
	r.dst, _ = netip.ParseAddrPort(c.Control.Dst)
	r.client, r.server = &r.PNS, &r.PAC
	if src := r.src.Addr().String(); src != r.PNS.Address && src == r.PAC.Address {
		r.client, r.server = r.server, r.client
		r.toClient, r.toServer = r.ToPAC, r.ToPNS
	}
	return r
}

func rowsOf(all []admin.Call) []*row {
	rows := make([]*row, len(all))
	for i, c := range all {
		rows[i] = newRow(c)
	}
	return rows
}

// words is what the words of a filter are looked for in.
func (r *row) words() string {
	return strings.ToLower(strings.Join([]string{
		end(r.client.Address, r.client.CallID), end(r.client.PublicAddress, r.client.PublicCallID),
		end(r.server.Address, r.server.CallID), end(r.server.PublicAddress, r.server.PublicCallID),
		r.State, r.state().text, r.Control.Src, r.Control.Dst, r.Owner,
	}, " "))
}

// matches reports whether a call has each word of a filter.
func (r *row) matches(words []string) bool {
	text := r.words()
	for _, w := range words {
		if !strings.Contains(text, strings.ToLower(w)) && !r.within(w) {
			return false
		}
	}
	return true
}

// within reports whether a word is the network of an end: 10.0.0.0/8 is one, 10.0.0.10/7 an
// address with a Call ID.
func (r *row) within(word string) bool {
	network, err := netip.ParsePrefix(word)
	if err != nil || network != network.Masked() {
		return false
	}
	for _, p := range []*admin.Party{r.client, r.server} {
		if a, err := netip.ParseAddr(p.Address); err == nil && network.Contains(a) {
			return true
		}
	}
	return false
}

// rate is the bytes per second both ways.
func (r *row) rate() (sum uint64) {
	for _, t := range []*admin.Traffic{r.rateClient, r.rateServer} {
		if t != nil {
			sum += t.Bytes
		}
	}
	return sum
}

// compares are the orders: the most interesting calls come first.
var compares = map[string]func(a, b *row) int{
	"age":    func(a, b *row) int { return b.Since.Compare(a.Since.Time) },
	"client": func(a, b *row) int { return a.src.Compare(b.src) },
	"server": func(a, b *row) int { return a.dst.Compare(b.dst) },
	"state":  func(a, b *row) int { return cmp.Compare(a.state().text, b.state().text) },
	"rate":   func(a, b *row) int { return cmp.Compare(b.rate(), a.rate()) },
	"number": func(a, b *row) int { return cmp.Compare(a.Number, b.Number) },
}

func orders() []string {
	all := make([]string, 0, len(compares))
	for o := range compares {
		all = append(all, o)
	}
	slices.Sort(all)
	return all
}

// completeOrder offers the shell the orders, and the reversed ones after a "-".
func completeOrder(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all := orders()
	if strings.HasPrefix(begun, "-") {
		for i := range all {
			all[i] = "-" + all[i]
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// order is what calls are sorted by, "" for the default.
type order string

// Set, String and Type are for the flag.
func (o *order) Set(s string) error {
	if _, ok := compares[strings.TrimPrefix(s, "-")]; !ok {
		return config.ErrUnfit
	}
	*o = order(s)
	return nil
}

func (o *order) String() string { return string(*o) }
func (o *order) Type() string   { return "order" }

// by returns the comparison of an order.
func (o order) by(otherwise string) func(a, b *row) int {
	name, reversed := strings.CutPrefix(cmp.Or(string(o), otherwise), "-")
	compare := compares[name]
	return func(a, b *row) int {
		way := compare(a, b)
		if reversed {
			way = -way
		}
		return cmp.Or(way, cmp.Compare(a.Number, b.Number))
	}
}

// callColumns says which columns a table of calls has.
type callColumns struct {
	wide  bool
	rates bool // instead of what was carried so far
}

// lastRank is the spare of the column that goes last.
const lastRank = 8

// column is one of a table of calls.
type column struct {
	head  string
	spare int // when it goes from a narrow terminal: 1 is the first to go, 0 never goes
	cell  func(*row) cell
}

// text is a column of plain text.
func text(head string, spare int, of func(*row) string) column {
	return column{head, spare, func(r *row) cell { return cell{text: of(r)} }}
}

func seen(p *admin.Party) string { return end(p.PublicAddress, p.PublicCallID) }

// translated reports whether the other end sees another one in place of an end.
func translated(p *admin.Party) bool { return seen(p) != end(p.Address, p.CallID) }

// columns returns the columns for calls: the server's public form only where one is
// translated, and the owner only in a cluster. Which call it is ("calls end" takes its number),
// whose, and how it does stay on the narrowest terminal.
func (show callColumns) columns(all []*row, now time.Time) []column {
	columns := []column{
		text("CALL", 0, func(r *row) string { return fmt.Sprint(r.Number) }),
		text("CLIENT", 0, func(r *row) string { return end(r.client.Address, r.client.CallID) }),
		text("PUBLIC", 3, func(r *row) string { return seen(r.client) }),
		text("SERVER", 8, func(r *row) string { return end(r.server.Address, r.server.CallID) }),
	}
	if show.wide || slices.ContainsFunc(all, func(r *row) bool { return translated(r.server) }) {
		columns = append(columns, text("PUBLIC", 2, func(r *row) string { return seen(r.server) }))
	}
	columns = append(columns,
		column{"STATE", 0, (*row).state},
		text("AGE", 4, func(r *row) string { return short(now.Sub(r.Since.Time)) }),
	)
	columns = append(columns, show.ways()...)
	if show.wide {
		columns = append(columns, text("CONTROL", 1, func(r *row) string { return r.Control.Src + " > " + r.Control.Dst }))
	}
	if slices.ContainsFunc(all, func(r *row) bool { return r.Owner != "" }) {
		columns = append(columns, text("OWNER", 7, func(r *row) string { return starred(r.Owner, r.OwnedHere) }))
	}
	return columns
}

// ways are the columns of what goes each way.
func (show callColumns) ways() []column {
	toClient, toServer := func(r *row) string { return amount(r.toClient) }, func(r *row) string { return amount(r.toServer) }
	if show.rates {
		toClient, toServer = func(r *row) string { return rate(r.rateClient) }, func(r *row) string { return rate(r.rateServer) }
	}
	return []column{text("TO CLIENT", 6, toClient), text("TO SERVER", 5, toServer)}
}

// callTable is a line per call.
func callTable(all []*row, now time.Time, show callColumns) *table {
	columns := show.columns(all, now)
	t := &table{rows: make([][]cell, len(all))}
	for rank := 1; rank <= lastRank; rank++ {
		for i, c := range columns {
			if c.spare == rank {
				t.spare = append(t.spare, i)
			}
		}
	}
	for _, c := range columns {
		t.heads = append(t.heads, c.head)
		for i, r := range all {
			t.rows[i] = append(t.rows[i], c.cell(r))
		}
	}
	return t
}

// state is a call's state, or what keeps an established one from being of use.
func (r *row) state() cell {
	switch {
	case r.Carries == meter.OneWay.String():
		return cell{"one-way", badTone}
	case r.Carries == meter.Silent.String():
		return cell{"silent", badTone}
	case r.State == calls.Established.String():
		return cell{r.State, goodTone}
	}
	return cell{text: r.State}
}

// failing are the calls that do not carry.
func failing(all []*row) (bad []*row) {
	for _, r := range all {
		if r.state().tone == badTone {
			bad = append(bad, r)
		}
	}
	return bad
}

// trouble says below the table on a terminal which calls do not carry, and who knows why.
func trouble(all []*row) string {
	bad := failing(all)
	if len(bad) == 0 {
		return ""
	}
	verb := "carry traffic one way only, or none"
	if len(bad) == 1 {
		verb = map[bool]string{true: "carries traffic one way only", false: "carries no traffic"}[bad[0].NoneTo != ""]
	}
	return fmt.Sprintf("\n%s %s: \"pptpalg explain %s\" says why\n", number(len(bad), "call"), verb, bad[0].client.Address)
}

// end shows an end of a call as address/Call ID.
func end(address string, id *pptp.CallID) string {
	if id == nil {
		return address + "/-"
	}
	return address + "/" + id.String()
}

// amount is what went one way.
func amount(t *admin.Traffic) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%sp %sB", scaled(t.Packets), scaled(t.Bytes))
}

func rate(t *admin.Traffic) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%sp/s %sB/s", scaled(t.Packets), scaled(t.Bytes))
}

// scaled writes a number with three or four digits: 999, 9999, 10k, 1.23M.
func scaled(n uint64) string {
	v := float64(n)
	if n < 10_000 {
		return fmt.Sprint(n)
	}
	for _, unit := range []string{"k", "M", "G"} {
		if v /= 1000; v < 999.5 {
			return fmt.Sprintf("%.3g%s", v, unit)
		}
	}
	return fmt.Sprintf("%.4gG", v)
}

// short writes a time with its two largest units: 3s, 5m2s, 3h7m, 12d4h.
func short(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	units := []struct {
		seconds int64
		name    string
	}{{86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}}
	for i, u := range units {
		if s < u.seconds {
			continue
		}
		text := fmt.Sprintf("%d%s", s/u.seconds, u.name)
		if i+1 < len(units) && s%u.seconds >= units[i+1].seconds {
			text += fmt.Sprintf("%d%s", s%u.seconds/units[i+1].seconds, units[i+1].name)
		}
		return text
	}
	return "0s"
}

// clientsOf are the clients of a running daemon's calls, for the shell to complete, each with
// what it is doing. Without a daemon there are none.
func clientsOf(ctx context.Context, dir string) (found []cobra.Completion) {
	for _, r := range live(ctx, dir) {
		found = append(found, cobra.CompletionWithDesc(r.client.Address, r.State+" to "+r.server.Address))
	}
	return slices.Compact(found)
}

// live are the calls of a running daemon, in the order of their numbers.
func live(ctx context.Context, dir string) []*row {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	all, err := admin.Client{StateDir: dir}.Calls(ctx)
	if err != nil {
		return nil
	}
	return rowsOf(all)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/history"
)

// eventLog is the event log of a running daemon; the zero value is none.
type eventLog struct{ *history.Log }

// openEventLog opens the event log. If path is "", there is none.
func openEventLog(path string, store *history.Store, log *slog.Logger) (eventLog, error) {
	if path == "" {
		return eventLog{}, nil
	}
	l, err := history.OpenLog(path, store, log)
	if err != nil {
		return eventLog{}, fmt.Errorf("%w: choose another file with --event-log", err)
	}
	return eventLog{l}, nil
}

// Run writes the log until ctx is done. On SIGHUP it opens the file again.
func (l eventLog) Run(ctx context.Context) error {
	if l.Log == nil {
		return nil
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	return l.Log.Run(ctx, hangups)
}

// Lost returns how many events were not written.
func (l eventLog) Lost() uint64 {
	if l.Log == nil {
		return 0
	}
	return l.Log.Lost()
}

func (l eventLog) close() error {
	if l.Log == nil {
		return nil
	}
	return l.Close()
}

// eventsOptions are the flags of events.
type eventsOptions struct {
	output
	follow                   bool
	dir                      string
	files                    []string
	since, until, at         whenFlag
	client, server, publicly partyFlag
}

// partyFlag is a flag with an end of a call; the zero value is any.
type partyFlag struct {
	text string
	history.Party
}

func (p *partyFlag) String() string { return p.text }
func (p *partyFlag) Type() string   { return "ADDRESS[:PORT][/ID]" }

// Set reads it.
func (p *partyFlag) Set(text string) (err error) {
	p.text = text
	p.Party, err = history.ParseParty(text)
	return err
}

func (o *eventsOptions) add(f *pflag.FlagSet, dir string) {
	f.BoolVarP(&o.follow, "follow", "f", false, "keep printing events as they occur")
	f.Var(&o.since, "since", "only events since this time: "+whenForms)
	f.Var(&o.until, "until", "only events before this time")
	f.Var(&o.at, "at", "only events of the calls that were up at this time")
	f.Var(&o.client, "client", "only calls of the client with this address, port and Call ID (its own, before NAT)")
	f.Var(&o.server, "server", "only calls to the server with this address, port and Call ID")
	f.Var(&o.publicly, "public", "only calls whose client or server has this public address, port and Call ID")
	for _, name := range []string{"since", "until", "at"} {
		config.Want(f, name, whenForms)
	}
	f.StringArrayVar(&o.files, "file", nil, `read an event log, with its rotated files, instead of asking the daemon; "-" for standard input (repeatable)`)
	config.Want(f, "file", `the name of an event log, or "-" for standard input`)
	config.Check(f, "file", o.checkFiles)
	f.StringVar(&o.dir, "state-dir", dir, "directory of the daemon's socket")
}

func (o *eventsOptions) checkFiles() error {
	if slices.Contains(o.files, "") {
		return config.ErrUnfit
	}
	return nil
}

func (o *eventsOptions) query() history.Query {
	return history.Query{Since: o.since.time, Until: o.until.time, Client: o.client.Party, Server: o.server.Party, Public: o.publicly.Party}
}

func eventsCommand(e env) *cobra.Command {
	o := new(eventsOptions)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print which calls were opened, translated and closed",
		Long: `Print a line each time a call is opened, translated or closed: the time, the address and
Call ID of each end, and the public ones that the other end saw. For a call that ended,
also the reason, its duration, and its traffic each way (packets/bytes, "-" if not
counted). A line ends in "approximate" if the counts are incomplete: a conntrack entry
that counted was deleted, or an earlier daemon translated the packets.

The daemon keeps the last events of each client since it was started, and standard error
says so where more was asked for. "pptpalg run --event-log FILE" writes all events to a
log, which --file FILE reads. In JSON each event is an object on a line of
its own, in YAML a document. To find out who had a public address and Call ID at some
time, ask for the calls that were up then:

  pptpalg events --file /var/log/pptpalg/events.json --public 203.0.113.1/255 --at "2026-01-31 15:04:05"

Two calls may have the same public address and Call ID if they go to different servers;
--server ADDRESS names one.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.add(cmd.Flags(), stateDir(e))
	o.addTo(cmd, formText, formJSON, formYAML)
	cmd.MarkFlagsMutuallyExclusive("follow", "file")
	cmd.MarkFlagsMutuallyExclusive("follow", "until")
	for _, flag := range []string{"follow", "since", "until"} {
		cmd.MarkFlagsMutuallyExclusive("at", flag)
	}
	return cmd
}

func (o *eventsOptions) run(cmd *cobra.Command) error {
	if err := o.checkTimes(time.Now()); err != nil {
		return err
	}
	remembers := o.memory(cmd)
	remembers.begin()
	found := false
	show := o.printer(cmd.OutOrStdout())
	err := o.pick(cmd, func(r history.Record) error {
		found = true
		return show(r)
	})
	if err == nil && !found && !o.follow {
		remembers.nothing(o)
	}
	return err
}

// pick calls show with the events that were asked for.
func (o *eventsOptions) pick(cmd *cobra.Command, show func(history.Record) error) error {
	query := o.query()
	if !o.at.time.IsZero() {
		return o.upAt(cmd, query, show)
	}
	return o.each(cmd, func(r history.Record) error {
		if !query.Selects(&r) {
			return nil
		}
		return show(r)
	})
}

// upAt prints the events of the calls that were up at a time.
func (o *eventsOptions) upAt(cmd *cobra.Command, query history.Query, show func(history.Record) error) error {
	up := history.UpAt(o.at.time, query)
	err := o.each(cmd, func(r history.Record) error {
		up.Add(r)
		return nil
	})
	for _, r := range up.Records() {
		if shown := show(r); shown != nil {
			return errors.Join(err, shown)
		}
	}
	return err
}

// each calls show with every record of the files, or of the daemon.
func (o *eventsOptions) each(cmd *cobra.Command, show func(history.Record) error) error {
	if len(o.files) == 0 {
		return admin.Client{StateDir: o.dir}.Events(cmd.Context(), o.follow, show)
	}
	var files []string
	for _, file := range o.files {
		if file == "-" {
			files = append(files, file)
			continue
		}
		rotated, err := history.Rotated(file)
		if err != nil {
			return err
		}
		files = append(files, rotated...)
	}
	broken, err := history.ReadFiles(files, show)
	if broken > 0 {
		err = errors.Join(err, fmt.Errorf("%d lines of the event log cannot be read: they are truncated, or are not events", broken))
	}
	return err
}

func (o *eventsOptions) printer(w io.Writer) func(history.Record) error {
	switch o.chosen() {
	case formJSON:
		lines := json.NewEncoder(w)
		return func(r history.Record) error { return lines.Encode(r) }
	case formYAML:
		return func(r history.Record) error {
			if _, err := io.WriteString(w, "---\n"); err != nil {
				return err
			}
			return printYAML(w, r)
		}
	}
	return func(r history.Record) error {
		_, err := fmt.Fprintln(w, r)
		return err
	}
}

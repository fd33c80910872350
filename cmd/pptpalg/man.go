package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand writes the manual pages. It is for package builders, and hidden.
func manCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the manual pages into a directory",
		Hidden: true,
		Args:   takes("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pages := map[string]string{"pptpalg.yaml.5": filePage(newSettings(stateDir(e)).flags)}
			addPages(pages, cmd.Root())
			for name, text := range pages {
				if err := os.WriteFile(filepath.Join(args[0], name), []byte(text), 0o644); err != nil {
					return fmt.Errorf("write manual page: %w", err)
				}
			}
			return nil
		},
	}
}

// addPages adds a page for a command, and for each below it that is not hidden.
func addPages(pages map[string]string, cmd *cobra.Command) {
	pages[pageName(cmd)+".8"] = commandPage(cmd)
	for _, sub := range shown(cmd) {
		addPages(pages, sub)
	}
}

// shown are the commands that the help lists. The commands that cobra adds have no page.
func shown(cmd *cobra.Command) []*cobra.Command {
	var subs []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
			subs = append(subs, sub)
		}
	}
	return subs
}

// pageName is "pptpalg-rules-load" for "pptpalg rules load".
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func commandPage(cmd *cobra.Command) string {
	r := newPage(pageName(cmd), "8", cmd.Short)
	r.heading("SYNOPSIS")
	if cmd.Runnable() {
		r.line(".B", cmd.UseLine())
	}
	if cmd.Runnable() && cmd.HasAvailableSubCommands() {
		r.WriteString(".br\n")
	}
	if cmd.HasAvailableSubCommands() {
		r.line(".B", cmd.CommandPath()+" COMMAND [flags]")
	}
	r.heading("DESCRIPTION")
	r.paragraphs(description(cmd))
	if subs := shown(cmd); len(subs) > 0 {
		r.heading("COMMANDS")
		for _, sub := range subs {
			r.item(bold(sub.Name()), sub.Short)
		}
	}
	if cmd.HasAvailableLocalFlags() {
		r.heading("OPTIONS")
		r.flags(cmd.LocalFlags())
	}
	r.heading("SEE ALSO")
	r.see(cmd)
	return r.String()
}

func description(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return cmd.Long
	}
	return cmd.Short + "."
}

// filePage describes the configuration file.
func filePage(keys *pflag.FlagSet) string {
	r := newPage("pptpalg.yaml", "5", "configuration file of pptpalg")
	r.heading("SYNOPSIS")
	r.line(".I", configFile)
	r.heading("DESCRIPTION")
	r.paragraphs(`The file is read by "pptpalg run", "pptpalg rules" and "pptpalg fastpath". It is YAML with a line "key: value" for each key, and need not exist. Each key is also a flag of "pptpalg run"; the flag overrides the file. An unknown key or a wrong value is an error. "pptpalg config --default" prints a template.`)
	r.heading("KEYS")
	keys.VisitAll(func(f *pflag.Flag) { r.item(bold(f.Name), usage(f)) })
	r.heading("SEE ALSO")
	r.pages("pptpalg-run (8)", "pptpalg-config (8)", "pptpalg-check-config (8)")
	return r.String()
}

// page is a manual page in roff, as groff_man(7) says.
//
// It is ours because cobra/doc does less: its pages bear the date of the run, so that the
// same program has others next month; they neither list a command's subcommands nor name
// the values of flags, and read "--queue=1723" for the default; a help text is Markdown to
// it; pptpalg.yaml(5) it cannot write, while "completion" gets five pages. The program
// would grow by 0.25 MB.
type page struct{ strings.Builder }

func newPage(name, section, short string) *page {
	r := new(page)
	// No date: the same program always gets the same pages.
	fmt.Fprintf(r, ".TH \"%s\" %s \"\" \"pptpalg %s\" \"pptpalg\"\n", roff(strings.ToUpper(name)), section, roff(buildVersion()))
	r.heading("NAME")
	fmt.Fprintf(r, "%s \\- %s\n", roff(name), roff(short))
	return r
}

func (r *page) heading(text string) { fmt.Fprintf(r, ".SH %s\n", text) }

func (r *page) line(macro, text string) { fmt.Fprintf(r, "%s %s\n", macro, roff(text)) }

// item is a tagged paragraph. The tag is roff already.
func (r *page) item(tag, text string) { fmt.Fprintf(r, ".TP\n%s\n%s\n", tag, roff(text)) }

// paragraphs are separated by empty lines. Indented lines stay unchanged.
func (r *page) paragraphs(text string) {
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			r.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, " ") {
			fmt.Fprintf(r, ".nf\n%s\n.fi\n", roff(p))
			continue
		}
		r.WriteString(roff(p) + "\n")
	}
}

func (r *page) flags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		tag := bold("--" + f.Name)
		if value, _ := pflag.UnquoteUsage(f); value != "" {
			tag += " \\fI" + roff(value) + "\\fR"
		}
		r.item(tag, usage(f))
	})
}

// usage is a flag's help with its default.
func usage(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return text + "."
	}
	return fmt.Sprintf("%s. Default: %s.", text, strings.Trim(f.DefValue, "[]"))
}

// see refers to the pages above and below a command's.
func (r *page) see(cmd *cobra.Command) {
	var names []string
	if cmd.HasParent() {
		names = append(names, pageName(cmd.Parent())+" (8)")
	}
	for _, sub := range shown(cmd) {
		names = append(names, pageName(sub)+" (8)")
	}
	r.pages(append(names, "pptpalg.yaml (5)")...)
}

// pages are other ones, each "name (section)".
func (r *page) pages(names ...string) {
	for i, name := range names {
		if i < len(names)-1 {
			name += ","
		}
		r.line(".BR", name)
	}
}

func bold(text string) string { return "\\fB" + roff(text) + "\\fR" }

// roff quotes a text so that it is shown unchanged, whatever the reader's encoding.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`, `'`, `\(aq`).Replace(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	var b strings.Builder
	for _, r := range strings.Join(lines, "\n") {
		if r > unicode.MaxASCII {
			fmt.Fprintf(&b, `\[u%04X]`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

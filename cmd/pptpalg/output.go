package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// The forms of what a command prints.
const (
	formTable = "table"
	formWide  = "wide"
	formText  = "text"
	formJSON  = "json"
	formYAML  = "yaml"
)

// output is how a command prints what it has to tell.
type output struct {
	form   string
	forms  []string
	asJSON bool
}

// addTo gives a command --output with its forms, the default one first, and --json.
func (o *output) addTo(cmd *cobra.Command, forms ...string) {
	o.form, o.forms = forms[0], forms
	f := cmd.Flags()
	f.VarP(o, "output", "o", "form of the output: "+strings.Join(forms, ", "))
	f.BoolVar(&o.asJSON, "json", false, "the same as --output json")
	config.OneOf(f, "output", forms...)
	cmd.MarkFlagsMutuallyExclusive("output", "json")
}

// Set, String and Type are for the flag.
func (o *output) Set(s string) error {
	if !slices.Contains(o.forms, s) {
		return config.ErrUnfit
	}
	o.form = s
	return nil
}

func (o *output) String() string { return o.form }
func (o *output) Type() string   { return "form" }

// chosen is the form that was asked for.
func (o *output) chosen() string {
	if o.asJSON {
		return formJSON
	}
	return o.form
}

// structured reports whether programs read the output.
func (o *output) structured() bool { return o.chosen() == formJSON || o.chosen() == formYAML }

// print prints a value for programs.
func (o *output) print(w io.Writer, v any) error {
	if o.form != formYAML {
		return printJSON(w, v)
	}
	return printYAML(w, v)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printYAML prints a value with the names and in the order of its JSON.
func printYAML(w io.Writer, v any) error {
	b, err := schema.YAML(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"pptpalg/cmd/pptpalg/internal/config"
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

// structured reports whether programs read the output.
func (o *output) structured() bool { return o.asJSON || o.form == formJSON || o.form == formYAML }

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

// printYAML prints a value with the names and in the order of its JSON, which YAML includes.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	spread(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	return enc.Close()
}

// spread takes the form of JSON from a document: braces, brackets and needless quotes.
func spread(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		spread(child)
	}
}

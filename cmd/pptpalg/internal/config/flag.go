package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// Annotations of flags: wantKey of one that has a hint of its own, valuesKey of one that
// has a fixed set of values.
const (
	wantKey   = "pptpalg_want"
	valuesKey = "pptpalg_values"
)

// wants are the hints for values of each type, by Value.Type.
var wants = map[string]string{
	"bool":      "true or false",
	"duration":  "a duration with its unit, such as 300ms, 90s, 2m or 1h30m",
	"int":       "a whole number",
	"uint8":     "a whole number from 0 to 255",
	"uint16":    "a whole number from 0 to 65535",
	"uint32":    "a whole number from 0 to 4294967295, or 0x0 to 0xffffffff",
	"float64":   "a number",
	"uintSlice": "a list of whole numbers, such as [1, 2]",
}

// Want says for a flag what its values are, as the hint of an error: "a port from 1 to
// 65535". Flags without one have a hint for their type.
func Want(f *pflag.FlagSet, name, hint string) {
	if err := f.SetAnnotation(name, wantKey, []string{hint}); err != nil {
		panic(err) // no such flag
	}
}

func want(f *pflag.Flag) string {
	if hint := f.Annotations[wantKey]; len(hint) > 0 {
		return hint[0]
	}
	if all := Values(f); len(all) > 1 {
		last := len(all) - 1
		return strings.Join(all[:last], ", ") + " or " + all[last]
	}
	return wants[f.Value.Type()]
}

// OneOf says for a flag which values it has. It does not check them.
func OneOf(f *pflag.FlagSet, name string, values ...string) {
	if err := f.SetAnnotation(name, valuesKey, values); err != nil {
		panic(err) // no such flag
	}
}

// Values returns the values of a flag that has a fixed set of them.
func Values(f *pflag.Flag) []string { return f.Annotations[valuesKey] }

// Check has each value that flag name gets looked at by check, after it was stored.
func Check(f *pflag.FlagSet, name string, check func() error) {
	flag := f.Lookup(name)
	c := checked{flag.Value, check}
	flag.Value = c
	if s, ok := c.Value.(pflag.SliceValue); ok {
		flag.Value = checkedSlice{c, s}
	}
}

// checked is a value with a check of its own.
type checked struct {
	pflag.Value
	check func() error
}

func (c checked) Set(text string) error {
	if err := c.Value.Set(text); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return fault{err}
	}
	return nil
}

// checkedSlice is a checked list.
type checkedSlice struct {
	checked
	pflag.SliceValue
}

// Text returns a flag's value as Value.Set reads it. That is not always what String
// returns: a list has brackets there.
func Text(f *pflag.Flag) string {
	if s, ok := f.Value.(pflag.SliceValue); ok {
		return strings.Join(s.GetSlice(), ",")
	}
	return f.Value.String()
}

// Replace sets a flag to what Text returned. Value.Set would add to a list that was set
// before.
func Replace(f *pflag.Flag, text string) error {
	s, list := f.Value.(pflag.SliceValue)
	if !list {
		return f.Value.Set(text)
	}
	if text == "" {
		return s.Replace(nil)
	}
	return s.Replace(strings.Split(text, ","))
}

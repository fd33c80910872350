// Package config owns the configuration file: YAML whose keys are the flags of a
// command, read as strictly as a command line and written so that it can be read back.
//
// The set of flags is the only table of keys. A key's value goes through its flag's
// Value.Set, so a flag and its key allow and refuse the same values.
package config

package main

import "runtime"

// machine is what Go builds a program for.
type machine struct {
	arch string   // GOARCH
	env  []string // what Go must know beside it
}

// machines are those whose name is not GOARCH alone. Small MIPS routers have no floating
// point unit.
var machines = map[string]machine{
	"armv7":  {"arm", []string{"GOARM=7"}},
	"mipsle": {"mipsle", []string{"GOMIPS=softfloat"}},
}

func machineOf(name string) machine {
	if m, ok := machines[name]; ok {
		return m
	}
	return machine{arch: name}
}

func (m machine) environ() []string {
	return append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + m.arch}, m.env...)
}

// runs reports whether a program for this machine runs on this one.
func (m machine) runs() bool { return m.arch == runtime.GOARCH && m.env == nil }

// nfpmName is what nfpm calls a machine. It translates that to what each format does.
func nfpmName(machine string) string {
	if machine == "armv7" {
		return "arm7"
	}
	return machine
}

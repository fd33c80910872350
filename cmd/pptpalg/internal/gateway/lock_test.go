package gateway

import "testing"

func TestDescribeHolder(t *testing.T) {
	const head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
	const row = "0000000000000000: 00000002 00000000 00000000 0001 01 31337 "
	tests := []struct {
		name    string
		pid     int
		command string
		list    string
		want    string
	}{
		{"all is known", 12, "pptpalg", head + row + "/run/other\n" + row + "@pptpalg/12/1723//run/pptpalg\n", `pid 12 (pptpalg), queue 1723, state directory "/run/pptpalg"`},
		{"no list", 12, "pptpalg", "", "pid 12 (pptpalg)"},
		{"in another PID namespace", 0, "", row + "@pptpalg/1/1900//state\n", `its process is not known, queue 1900, state directory "/state"`},
		{"nothing is known", 0, "", head, "its process is not known"},
		{"somebody else took such a name", 12, "pptpalg", row + "@pptpalg/13/1//tmp\n" + row + "@pptpalg/12/5//d\n", `pid 12 (pptpalg), queue 5, state directory "/d"`},
		{"names that say nothing", 0, "", row + "@pptpalg/\n" + row + "@pptpalg/1/x/y\n" + row + "@pptpalg/1\n" + row + "\n", "its process is not known"},
		{"a directory to deceive a terminal", 0, "", row + "@pptpalg/1/5/a\x1b[2J b\n", `its process is not known, queue 5, state directory "a\x1b[2J b"`},
	}
	for _, tt := range tests {
		if got := describe(tt.pid, tt.command, tt.list); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

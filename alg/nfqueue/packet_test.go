package nfqueue

import "testing"

func TestNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{Prerouting.String(), "PREROUTING"},
		{Input.String(), "INPUT"},
		{Forward.String(), "FORWARD"},
		{Output.String(), "OUTPUT"},
		{Postrouting.String(), "POSTROUTING"},
		{Hook(9).String(), "unknown(9)"},
		{Accept.String(), "accept"},
		{AcceptModified.String(), "accept modified"},
		{Drop.String(), "drop"},
		{Repeat.String(), "repeat"},
		{RepeatModified.String(), "repeat modified"},
		{Verdict(9).String(), "unknown(9)"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

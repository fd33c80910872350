package main

import (
	"os/exec"
	"testing"
)

func TestSortable(t *testing.T) {
	tests := []struct{ describe, want string }{
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-dirty", "1.2.3+dirty"},
		{"v1.2.3-rc1", "1.2.3~rc1"},
		{"v1.2.3-rc1-4-gabc1234", "1.2.3~rc1+4.gabc1234"},
		{"v1.2.3-4-gabc1234", "1.2.3+4.gabc1234"},
		{"v1.2.3-4-gabc1234-dirty", "1.2.3+4.gabc1234+dirty"},
		{"abc1234", "0~20261122120000.abc1234"},
		{"abc1234-dirty", "0~20261122120000.abc1234+dirty"},
		{"", "0~20261122120000"},
		{"release/x-1 of; it", "0~20261122120000"},
	}
	for _, tt := range tests {
		if got := sortable(tt.describe, someTime); got != tt.want {
			t.Errorf("%q is %s, want %s", tt.describe, got, tt.want)
		}
	}
}

// TestOrder has dpkg compare each version with the next.
func TestOrder(t *testing.T) {
	needProgram(t, "dpkg")
	order := []string{"abc1234", "v0.9.0", "v1.0.0-rc1", "v1.0.0-rc1-4-gabc1234", "v1.0.0-rc2", "v1.0.0", "v1.0.0-2-gffffff0", "v1.0.0-10-gabc1234", "v1.0.1"}
	for i := range order[1:] {
		a, b := sortable(order[i], someTime), sortable(order[i+1], someTime)
		if err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", a, "lt", b).Run(); err != nil {
			t.Errorf("%s is not below %s", a, b)
		}
	}
}

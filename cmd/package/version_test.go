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

// TestVersionsOfOthers: pacman and apk have rules of their own.
func TestVersionsOfOthers(t *testing.T) {
	tests := []struct{ describe, pacman, apk string }{
		{"v1.2.3", "1.2.3", "1.2.3"},
		{"v1.2.3-dirty", "1.2.3.dirty", "1.2.3_git"},
		{"v1.2.3-rc1", "1.2.3rc1", "1.2.3_rc1"},
		{"v1.2.3-beta.2", "1.2.3beta.2", "1.2.3_beta2"},
		{"v1.2.3-rc1-4-gabc1234", "1.2.3rc1.r4.gabc1234", "1.2.3_rc1_p4"},
		{"v1.2.3-4-gabc1234-dirty", "1.2.3.r4.gabc1234.dirty", "1.2.3_p4_git"},
		{"abc1234", "0.r20261122120000.abc1234", "0_pre20261122120000"},
		{"abc1234-dirty", "0.r20261122120000.abc1234.dirty", "0_pre20261122120000_git"},
		{"", "0.r20261122120000", "0_pre20261122120000"},
	}
	for _, tt := range tests {
		v := sortable(tt.describe, someTime)
		if got := pacmanVersion(v); got != tt.pacman {
			t.Errorf("%s is %s for pacman, want %s", v, got, tt.pacman)
		}
		if got := apkVersion(v); got != tt.apk {
			t.Errorf("%s is %s for apk, want %s", v, got, tt.apk)
		}
	}
}

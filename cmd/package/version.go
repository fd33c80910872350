package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// described is what git describe --tags --always --dirty says: a tag, commits since,
// the commit, and whether files differ from it.
var described = regexp.MustCompile(`^v([0-9][0-9A-Za-z.]*)(?:-((?:alpha|beta|rc)[0-9A-Za-z.]*))?(?:-([0-9]+)-(g[0-9a-f]+))?(-dirty)?$`)

// bare is what it says without a tag.
var bare = regexp.MustCompile(`^([0-9A-Za-z]+)(-dirty)?$`)

// sortable makes a version of what git describe says that dpkg and rpm sort right: a
// candidate before its release, commits behind it, and those before any release by
// their time. Files that are in no commit make it end in "+dirty".
func sortable(describe string, at time.Time) string {
	m := described.FindStringSubmatch(describe)
	if m == nil {
		return untagged(describe, at)
	}
	v := m[1]
	if m[2] != "" {
		v += "~" + m[2]
	}
	if m[3] != "" {
		v += fmt.Sprintf("+%s.%s", m[3], m[4])
	}
	return v + strings.Replace(m[5], "-", "+", 1)
}

func untagged(describe string, at time.Time) string {
	v := "0~" + at.Format("20060102150405")
	if m := bare.FindStringSubmatch(describe); m != nil {
		v += "." + m[1] + strings.Replace(m[2], "-", "+", 1)
	}
	return v
}

// asItIs is for dpkg, rpm and opkg, which sort alike.
func asItIs(sortable string) string { return sortable }

// sorted are the parts of what sortable returns: the version, a candidate's or a time's
// name, commits or dirt behind it.
var sorted = regexp.MustCompile(`^([^~+]*)(?:~([^+]*))?(?:\+([0-9]+)\.(g[0-9a-f]+))?(\+dirty)?$`)

// pacmanVersion is for pacman, which has no "~", and sorts letters behind a number before
// the number alone, and a further part behind it. What comes before any release begins
// with 0, which comes before all others anyway.
func pacmanVersion(sortable string) string {
	m := sorted.FindStringSubmatch(sortable)
	if m == nil {
		return sortable
	}
	v := m[1]
	switch {
	case v == "0":
		v += ".r" + m[2]
	default:
		v += m[2]
	}
	if m[3] != "" {
		v += ".r" + m[3] + "." + m[4]
	}
	return v + strings.Replace(m[5], "+", ".", 1)
}

// apkVersion is for apk, whose suffixes are a closed list, each with a number: _alpha,
// _beta, _pre and _rc come before the version, _p and _git behind it. There is no place
// for a commit's name.
func apkVersion(sortable string) string {
	m := sorted.FindStringSubmatch(sortable)
	if m == nil {
		return sortable
	}
	v := m[1]
	if m[2] != "" {
		v += "_" + apkSuffix(m[2])
	}
	if m[3] != "" {
		v += "_p" + m[3]
	}
	if m[5] != "" {
		v += "_git"
	}
	return v
}

// candidate is the name of one, and its number.
var candidate = regexp.MustCompile(`^(alpha|beta|rc)[.]?([0-9]*)$`)

// apkSuffix makes a suffix of a candidate's name, or of the time of a commit.
func apkSuffix(name string) string {
	if m := candidate.FindStringSubmatch(name); m != nil {
		return m[1] + m[2]
	}
	at, _, _ := strings.Cut(name, ".")
	if !allDigits(at) {
		return "pre"
	}
	return "pre" + at
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

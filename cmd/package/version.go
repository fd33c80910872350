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

package check

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(whole{m}) }

// whole is a run of tests that ends with the question whether they have provoked all
// findings. It is asked where all tests have run.
type whole struct{ *testing.M }

func (w whole) Run() int {
	code := w.M.Run()
	filtered := flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" || flag.Lookup("test.list").Value.String() != "" ||
		flag.Lookup("test.fuzz").Value.String() != ""
	if code != 0 || filtered || os.Geteuid() != 0 {
		return code
	}
	for _, gap := range gaps() {
		fmt.Fprintln(os.Stderr, gap)
		code = 1
	}
	return code
}

// heard is what findings the tests have seen, by their sentence before it was filled in.
var heard struct {
	sync.Mutex
	problems, warnings, mended map[string]bool
}

func hear(to *map[string]bool, form string) {
	heard.Lock()
	defer heard.Unlock()
	if *to == nil {
		*to = map[string]bool{}
	}
	(*to)[form] = true
}

func hearFinding(f Finding) {
	switch f.Result {
	case Problem:
		hear(&heard.problems, f.form)
	case Warning:
		hear(&heard.warnings, f.form)
	}
}

// untried are the problems that cannot be brought about and mended here, and why.
var untried = map[string]string{
	"CAP_NET_ADMIN is missing: no queue, no conntrack, no firewall rules":                    "the remedy is another user's: cmd/pptpalg",
	"iptables is not installed: the daemon cannot load its rules":                            "a package would be installed",
	"no queue can be bound: %s":                                                              "this would be another kernel",
	"conntrack cannot be queried: %s":                                                        "this would be another kernel",
	"conntrack refuses a call's entries: %s":                                                 "this would be another kernel",
	"the kernel does not translate GRE with conntrack entries: %s":                           "this would be another kernel",
	"the daemon's rules cannot be loaded: %s":                                                "this would be another kernel",
	"%s offloads control connections, so that they skip the daemon's queue":                  "kernels for tests have no flow tables",
	"the daemon would not start with its configuration: %s":                                  "cmd/pptpalg has the remedy",
	"the daemon would not start: its configuration has %d errors:\n%s":                       "cmd/pptpalg has the remedy",
	"the daemon runs, but queue %s is not bound: the daemon was started with another number": "cmd/pptpalg has a daemon",
	"the daemon runs and should translate GRE, but no rule sends GRE to it":                  "cmd/pptpalg has a daemon",

	"etcd does not answer: %s":                                 "cmd/pptpalg has etcd",
	"etcd has no leader: a majority of its members must be up": "machines would be started",
	"etcd's space quota is used up, and it refuses all writes: see etcd's --auto-compaction-retention and --quota-backend-bytes":         "store/cluster/etcd has an etcd that is full",
	"a write to etcd takes up to %s, longer than a packet waits (%v): calls are set up before other gateways know of them":               "cmd/pptpalg has etcd",
	"etcd does not let this gateway read below %s: %s":                                                                                   "store/cluster/etcd has an etcd with roles",
	"etcd does not let this gateway write below %s: %s":                                                                                  "store/cluster/etcd has an etcd with roles",
	"another running gateway has the name %s: each gateway needs its own name":                                                           "cmd/pptpalg has etcd",
	"--%s is %s here, and %s on %s: it must be the same on all gateways":                                                                 "cmd/pptpalg has etcd",
	"the clock of %s differs from this gateway's by %v: gateways need the same time":                                                     "this machine's clock would be set",
	"the %d calls of all gateways need %d conntrack entries here, more than the limit of %d allows: each gateway has the entries of all": "cmd/pptpalg has etcd",
}

// gaps lists the findings that no test has provoked, and the problems whose remedy no test
// has carried out.
func gaps() []string {
	var all []string
	for _, f := range sentences("problem") {
		if !heard.problems[f] {
			all = append(all, fmt.Sprintf("no test provokes the problem %q", f))
		}
		if _, known := untried[f]; !heard.mended[f] && !known {
			all = append(all, fmt.Sprintf("no test mends the problem %q", f))
		}
	}
	for _, f := range sentences("warning") {
		if !heard.warnings[f] {
			all = append(all, fmt.Sprintf("no test provokes the warning %q", f))
		}
	}
	for _, f := range slices.Sorted(maps.Keys(untried)) {
		if heard.mended[f] || !slices.Contains(sentences("problem"), f) {
			all = append(all, fmt.Sprintf("the problem %q is listed as untried, and is not", f))
		}
	}
	return all
}

// sentences reads from the source what a maker of findings is called with.
func sentences(maker string) []string {
	var all []string
	files, _ := filepath.Glob("*.go")
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			panic(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, isCall := n.(*ast.CallExpr)
			if !isCall || len(call.Args) < 2 {
				return true
			}
			if called, plain := call.Fun.(*ast.Ident); plain && called.Name == maker {
				all = append(all, literal(call.Args[1]))
			}
			return true
		})
	}
	return all
}

func literal(e ast.Expr) string {
	lit, plain := e.(*ast.BasicLit)
	if !plain {
		panic("a finding's sentence is no literal")
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		panic(err)
	}
	return text
}

// mending are the programs that remedies begin with.
var mending = []string{"iptables", "iptables-legacy", "nft", "sysctl", "ip", "pptpalg", "modprobe", "apt-get", "systemctl", "mkdir", "sed", "sudo", "etcdctl", "timedatectl", "{", "set-key", "load-rules"}

// wantsCommand holds that a remedy is one that a shell would carry out.
func wantsCommand(t *testing.T, f Finding) {
	t.Helper()
	first, _, _ := strings.Cut(f.Remedy, " ")
	if !slices.Contains(mending, first) {
		t.Errorf("%s: the remedy %q is no command that is known", f.Check, f.Remedy)
	}
	if out, err := exec.Command("sh", "-n", "-c", f.Remedy).CombinedOutput(); err != nil {
		t.Errorf("%s: the remedy %q is no command: %s", f.Check, f.Remedy, out)
	}
}

// needRoot skips a test that makes namespaces, or fails it where skipping is forbidden.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("not root, and PPTPALG_NO_SKIP is set")
	}
	t.Skip("needs root for network namespaces")
}

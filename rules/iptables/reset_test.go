package iptables

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
	"pptpalg/rules/nft"
)

// resetting is a configuration with the rule that answers segments with a RST.
var resetting = rules.Config{Queue: 1723, Ports: []uint16{1723}, ResetMark: rules.DefaultResetMark}

func TestResetTexts(t *testing.T) {
	loaded := map[string]string{
		"mangle": read(t, "loaded.list") + "-N PPTPALG-RESET\n",
		"filter": "-P FORWARD DROP\n-N PPTPALG-RESET\n-A FORWARD -p tcp -m mark --mark 0x20/0x20 -j PPTPALG-RESET\n" +
			"-A FORWARD -i lan -j ACCEPT\n-A PPTPALG-RESET -p tcp -m mark --mark 0x20/0x20 -j REJECT --reject-with tcp-reset\n",
	}
	trial.Golden(t, "print-reset.rules", Text(resetting))
	trial.Golden(t, "reload-reset.rules", loadParts(ResetChain, resetParts(resetting), loaded))
	trial.Golden(t, "unload-reset.rules", unloadParts(ResetChain, resetTables, loaded))
	if !wanted(onePort)[0].in(loaded["mangle"]) {
		t.Error("the empty chain is taken for ours")
	}
}

// tablesOf lists tables mangle and filter.
func (ns namespace) tablesOf(t *testing.T, command string) string {
	t.Helper()
	return ns.list(t, command) + ns.Run(t, "", command, "-w", "10", "-t", "filter", "-S")
}

func TestKernelResetLoadUnload(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		ns.restore(t, command, "*filter\n:FORWARD DROP\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n")
		f := ns.firewall(command)
		before := ns.tablesOf(t, command)
		for range 2 {
			mustLoad(t, f, resetting)
			if got := ns.tablesOf(t, command); strings.Count(got, ResetChain) != 4 || strings.Count(got, "tcp-reset") != 1 {
				t.Fatalf("loaded:\n%s", got)
			}
		}
		mustLoad(t, f, onePort)
		if got := ns.tablesOf(t, command); strings.Contains(got, ResetChain) {
			t.Errorf("left behind when it is not wanted any more:\n%s", got)
		}
		mustLoad(t, f, resetting)
		mustUnload(t, f)
		if got := ns.tablesOf(t, command); got != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", got, before)
		}
	})
}

// TestResetRefused: without the rule all else is loaded, and the outcome says so.
func TestResetRefused(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		real := f.Run
		for _, refuse := range []string{"-S", "--noflush"} {
			f.Run = func(ctx context.Context, stdin, name string, args ...string) (string, error) {
				list := strings.Join(args, " ")
				if refuse == "-S" && strings.HasSuffix(list, "-t filter -S") || refuse == "--noflush" && strings.Contains(stdin, "tcp-reset") {
					return "", errors.New("iptables: no chain, target or match by that name")
				}
				return real(ctx, stdin, name, args...)
			}
			done, err := f.Load(t.Context(), resetting)
			if err != nil || done.Refused == nil || done.Config.ResetMark != 0 {
				t.Errorf("%s: %+v, %v", refuse, done, err)
			}
			checkLoaded(t, ns.list(t, command), onePort)
			mustUnload(t, f)
			f.Run = real
			if got := ns.tablesOf(t, command); strings.Contains(got, ResetChain) {
				t.Errorf("%s: left behind:\n%s", refuse, got)
			}
		}
	})
}

// TestKernelReset: a segment with the mark is answered with a RST that its sender believes,
// whatever the firewall thinks of it and however strictly the kernel looks at the way it came.
func TestKernelReset(t *testing.T) {
	load := map[string]func(t *testing.T, ns namespace){
		"iptables-nft":    func(t *testing.T, ns namespace) { mustLoad(t, ns.firewall("iptables-nft"), resetting) },
		"iptables-legacy": func(t *testing.T, ns namespace) { mustLoad(t, ns.firewall("iptables-legacy"), resetting) },
		"nft":             func(t *testing.T, ns namespace) { ns.Run(t, trial.Counting(nft.Text(resetting)), "nft", "-f", "-") },
	}
	trial.NeedRoot(t)
	for name, load := range load {
		for _, filter := range []string{"0", "1", "2"} {
			t.Run(name+"/rp_filter "+filter, func(t *testing.T) {
				g := resetGateway(t, filter)
				load(t, g.namespace)
				client := g.connect(t)
				g.Run(t, "", "conntrack", "-F")
				g.Run(t, "", "iptables", "-t", "mangle", "-I", "PREROUTING", "-p", "tcp", "--dport", "1723", "-j", "MARK", "--or-mark", "0x10000000")
				if _, err := client.Write([]byte("data")); err != nil {
					t.Fatal(err)
				}
				_ = client.SetReadDeadline(time.Now().Add(15 * time.Second))
				if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the client reads %v, want ECONNRESET", err)
				}
			})
		}
	}
}

// resetGateway is a gateway with a firewall that lets in nothing but what it knows.
func resetGateway(t *testing.T, filter string) dataGateway {
	t.Helper()
	g := dataGateway{namespace: newNamespace(t)}
	g.client.namespace, g.server.namespace = newNamespace(t), newNamespace(t)
	wire(t, g.client.namespace, "toGateway", "10.0.1.2/24", g.namespace, "toClient", "10.0.1.1/24")
	wire(t, g.server.namespace, "toGateway", "203.0.113.2/24", g.namespace, "toServer", "203.0.113.1/24")
	g.client.IP(t, "route add default via 10.0.1.1")
	g.Run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter="+filter, "net.ipv4.conf.toClient.rp_filter="+filter)
	g.restore(t, "iptables", `*nat
-A POSTROUTING -o toServer -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p tcp --syn -j ACCEPT
COMMIT
`)
	return g
}

// connect connects the client to the server.
func (g dataGateway) connect(t *testing.T) net.Conn {
	t.Helper()
	var l net.Listener
	var client net.Conn
	g.server.Do(t, func() (err error) { l, err = net.Listen("tcp4", "203.0.113.2:1723"); return err })
	t.Cleanup(func() { l.Close() })
	g.client.Do(t, func() (err error) { client, err = net.Dial("tcp4", "203.0.113.2:1723"); return err })
	t.Cleanup(func() { client.Close() })
	return client
}

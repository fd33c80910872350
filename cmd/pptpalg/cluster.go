package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/gateway"
	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/store/cluster/etcd"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// clusterOptions are the flags of a gateway that shares its calls with others.
type clusterOptions struct {
	target   string
	prefix   string
	name     string
	wait     time.Duration
	share    string
	files    etcd.Files
	insecure bool
}

// Limits of --cluster-wait.
const (
	defaultClusterWait = 250 * time.Millisecond
	longestClusterWait = 2 * time.Second // TCP sends again before
)

func (o *clusterOptions) add(f *pflag.FlagSet) {
	f.StringVar(&o.target, "cluster", "", `etcd in which gateways share their calls, so that another one takes over the calls of one that fails: etcd://HOST:PORT[,HOST:PORT...]; "" for a single gateway`)
	f.StringVar(&o.prefix, "cluster-prefix", "pptpalg", "prefix of all keys in etcd; gateways with the same prefix share their calls")
	f.StringVar(&o.name, "cluster-name", "", `unique name of this gateway; "" for the host name`)
	f.DurationVar(&o.wait, "cluster-wait", defaultClusterWait, "maximum time that a control packet waits for etcd; after that the packet is sent, and etcd is updated later")
	f.StringVar(&o.share, "cluster-share", "", `this gateway's share of public Call IDs and ports, if several gateways have one public address at the same time: "1/2" and "2/2" for two gateways, likewise for 4, 8 or 16; "" if only one gateway has an address at a time`)
	f.StringVar(&o.files.Cert, "cluster-cert", "", "PEM file with this gateway's certificate for etcd")
	f.StringVar(&o.files.Key, "cluster-key", "", "PEM file with the private key of --cluster-cert")
	f.StringVar(&o.files.CA, "cluster-ca", "", "PEM file with the CA certificates that verify the certificates of etcd's servers")
	f.BoolVar(&o.insecure, "cluster-insecure", false, "use etcd without TLS: anyone who can reach etcd can redirect calls")
	config.Want(f, "cluster", `etcd://HOST:PORT[,HOST:PORT...], or "" for none`)
	config.Check(f, "cluster", func() error {
		if o.target == "" {
			return nil
		}
		_, err := etcd.ParseTarget(o.target)
		return err
	})
	config.Check(f, "cluster-prefix", func() error {
		if !state.ValidName(strings.ReplaceAll(o.prefix, "/", ".")) {
			return fmt.Errorf("%q is not made of letters, digits, '.', '-', '_' and '/'", o.prefix)
		}
		return nil
	})
	config.Check(f, "cluster-name", func() error {
		if o.name != "" && !state.ValidName(o.name) {
			return errClusterName(o.name)
		}
		return nil
	})
	config.Want(f, "cluster-share", `K/N with N 2, 4, 8 or 16 and K from 1 to N, or "" for none`)
	config.Check(f, "cluster-share", func() error {
		if _, ok := state.ParseShare(o.share); !ok {
			return errors.New("no such part")
		}
		return nil
	})
	config.Want(f, "cluster-wait", "a time from 1ms to 2s")
	config.Check(f, "cluster-wait", func() error {
		if o.wait < time.Millisecond || o.wait > longestClusterWait {
			return fmt.Errorf("not from 1ms to %v", longestClusterWait)
		}
		return nil
	})
}

func errClusterName(name string) error {
	return fmt.Errorf("%q is not made of letters, digits, '.', '-' and '_'", name)
}

// fits are the rules by which the flags go together.
func (o *clusterOptions) fits() []config.Rule {
	return []config.Rule{
		{Keys: []string{"cluster", "cluster-name"}, Check: o.checkName},
		{Keys: []string{"cluster", "cluster-cert", "cluster-key", "cluster-ca", "cluster-insecure"}, Check: o.checkTLS},
	}
}

func (o *clusterOptions) checkName() error {
	if o.target == "" {
		return nil
	}
	_, err := o.member()
	return err
}

func (o *clusterOptions) checkTLS() error {
	tls := o.files != etcd.Files{}
	switch {
	case o.target == "":
		return nil
	case tls && o.insecure:
		return errors.New("--cluster-insecure is for etcd without TLS: leave it out, or --cluster-cert, --cluster-key and --cluster-ca")
	case !o.insecure && (o.files.Cert == "" || o.files.Key == "" || o.files.CA == ""):
		return errors.New("--cluster needs --cluster-cert, --cluster-key and --cluster-ca, or --cluster-insecure")
	}
	return nil
}

// member returns the name of this gateway.
func (o *clusterOptions) member() (string, error) {
	if o.name != "" {
		return o.name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name this gateway: %w: set one with --cluster-name", err)
	}
	if !state.ValidName(name) {
		return "", fmt.Errorf("name this gateway: %w: set another one with --cluster-name", errClusterName(name))
	}
	return name, nil
}

// etcdConfig returns how etcd is reached.
func (o *clusterOptions) etcdConfig() (etcd.Config, error) {
	target, err := etcd.ParseTarget(o.target)
	if err != nil {
		return etcd.Config{}, fmt.Errorf("read --cluster: %w", err)
	}
	if p := strings.Trim(o.prefix, "/"); p != "pptpalg" {
		target, err = etcd.ParseTarget(etcd.Scheme + strings.Join(target.Endpoints, ",") + "/" + p)
		if err != nil {
			return etcd.Config{}, fmt.Errorf("read --cluster-prefix: %w", err)
		}
	}
	return etcd.Config{Target: target, Files: o.files, Insecure: o.insecure}, nil
}

// clusterMember returns how etcd is reached, and what the gateway tells others of itself. false says
// that it is alone.
func (o *options) clusterMember() (cfg etcd.Config, m state.Member, shares bool, err error) {
	if o.cluster.target == "" {
		return cfg, m, false, nil
	}
	if cfg, err = o.cluster.etcdConfig(); err != nil {
		return cfg, m, true, err
	}
	name, err := o.cluster.member()
	return cfg, state.Member{
		Name: name, Life: uint64(time.Now().UnixNano()), Version: buildVersion(),
		Ports: strings.Trim(fmt.Sprint(o.ports), "[]"), Rest: o.table.Rest, RandomIDs: o.randomIDs, Share: o.cluster.share,
	}, true, err
}

// openCluster returns the gateway's part in a cluster, nil for a gateway alone.
func (o *options) openCluster() (*gateway.ClusterConfig, error) {
	cfg, m, shares, err := o.clusterMember()
	if err != nil || !shares {
		return nil, err
	}
	shared, err := etcd.Open(cfg)
	if err != nil {
		return nil, err
	}
	part, _ := state.ParseShare(o.cluster.share)
	return &gateway.ClusterConfig{Shared: shared, Member: m, Wait: o.cluster.wait, Share: part}, nil
}

// checkedCluster is what check judges of a gateway that shares its calls, nil for a gateway alone.
func (o *options) checkedCluster() (*check.Cluster, error) {
	cfg, m, shares, err := o.clusterMember()
	if err != nil || !shares {
		return nil, err
	}
	return &check.Cluster{Etcd: cfg, Member: m, Wait: o.cluster.wait, Etc: "/etc"}, nil
}

func clusterCommand(e env) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show the gateways that share their calls, or declare which one has a public address",
		Long: `Show the gateways that share their calls, or declare which one has a public address.

Each public address has one owner: the gateway that has the address on an interface. For
an address that is on no interface, such as one that is routed to the gateway, declare the
owner with "take" and "drop" whenever the address moves, for example from keepalived's
notify scripts.`,
	}
	cmd.PersistentFlags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	cmd.AddCommand(clusterStatusCommand(&dir),
		clusterMoveCommand("take", "Declare that this gateway has a public address", &dir),
		clusterMoveCommand("drop", "Declare that this gateway no longer has a public address", &dir))
	return cmd
}

func clusterMoveCommand(verb, short string, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ADDRESS", Short: short, Args: takes("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := netip.ParseAddr(args[0])
			if err != nil || !public.Is4() {
				return usagef("%q is not an IPv4 address", args[0])
			}
			return admin.Client{StateDir: *dir}.Move(cmd.Context(), verb, public)
		},
	}
}

func clusterStatusCommand(dir *string) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show gateways, public addresses and how up to date this gateway is",
		Long: `Show the gateways that share their calls, who owns which public address, and how up to
date this gateway is. Exit code 0 means that this gateway may take over addresses.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := admin.Client{StateDir: *dir}.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if o.structured() {
				err = o.print(cmd.OutOrStdout(), st)
			} else {
				err = printCluster(cmd.OutOrStdout(), &st)
			}
			if err == nil && st.NotReady != "" {
				err = errors.New("not ready: " + st.NotReady)
			}
			return err
		},
	}
	o.addTo(cmd, formText, formJSON, formYAML)
	return cmd
}

// printCluster prints gateways, addresses and figures.
func printCluster(w io.Writer, st *admin.Cluster) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GATEWAY\tVERSION\tSINCE\tSLOT")
	for _, m := range st.Members {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", starred(m.Name, m.Name == st.Name), m.Version, m.Since.UTC().Format(time.DateTime), m.Slot)
	}
	fmt.Fprintln(t, "\nADDRESS\tOWNER\tHERE\tCALLS")
	for _, a := range st.Addresses {
		owner := a.Owner
		if owner == "" {
			owner = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", a.Address, starred(owner, a.Mine), yesNo(a.Here), a.Calls)
	}
	if len(st.Astray) > 0 {
		fmt.Fprintln(t, "\nASTRAY\tADDRESS\tOWNER\tLAST PACKET")
	}
	for _, a := range st.Astray {
		fmt.Fprintf(t, "%s > %s\t%s\t%s\t%s\n", a.Client, a.Server, a.Address, a.Owner, a.Last.UTC().Format(time.DateTime))
	}
	fmt.Fprintf(t, "\nstate\t%s\n", st.State())
	fmt.Fprintf(t, "calls not yet written\t%d\n", st.Pending)
	fmt.Fprintf(t, "revision\t%d\n", st.Revision)
	fmt.Fprintf(t, "lag\t%.1f s\n", st.Lag)
	if st.LastError != "" {
		fmt.Fprintf(t, "last error\t%s\n", st.LastError)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print cluster: %w", err)
	}
	return nil
}

// starred marks what is this gateway's.
func starred(name string, here bool) string {
	if here {
		return name + " *"
	}
	return name
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// clusterControl answers commands for a gateway, nil for a gateway alone.
func clusterControl(g *gateway.Gateway) *admin.ClusterControl {
	if !g.Shares() {
		return nil
	}
	return &admin.ClusterControl{
		Status: func() admin.Cluster { return clusterStatus(g) },
		Take:   g.Take, Drop: g.Leave, Owners: g.Owners,
	}
}

// clusterStatus is what a gateway tells of its cluster.
func clusterStatus(g *gateway.Gateway) admin.Cluster {
	st := g.Cluster()
	told := admin.Cluster{
		Name: st.Name, Degraded: st.Store.Degraded, Broken: st.Store.Broken, Whole: st.Whole,
		Lag: schema.For(st.Store.Lag), SameName: st.Store.SameName, Pending: st.Store.Pending, Revision: st.Store.Revision, Members: []admin.ClusterMember{}, Addresses: []admin.ClusterAddress{},
	}
	if err := g.Ready(time.Now()); err != nil {
		told.NotReady = err.Error()
	}
	if st.Store.LastFailure != nil {
		told.LastError = st.Store.LastFailure.Error()
	}
	for _, slot := range slices.Sorted(maps.Keys(st.Store.Members)) {
		m := st.Store.Members[slot]
		told.Members = append(told.Members, admin.ClusterMember{Slot: slot, Name: m.Name, Version: m.Version, Since: schema.At(time.Unix(0, int64(m.Life)))})
	}
	for _, a := range st.Astray {
		told.Astray = append(told.Astray, admin.ClusterAstray{
			Client: a.Connection.Src.String(), Server: a.Connection.Dst.String(), Address: state.NameOf(a.Public), Owner: a.Owner, Last: schema.At(a.Last),
		})
	}
	for _, public := range slices.SortedFunc(maps.Keys(st.Addresses), netip.Addr.Compare) {
		a := st.Addresses[public]
		told.Addresses = append(told.Addresses, admin.ClusterAddress{Address: state.NameOf(public), Owner: a.Owner, Mine: a.Mine, Here: a.Here, Calls: a.Calls})
	}
	return told
}

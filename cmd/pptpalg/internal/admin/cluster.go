package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Cluster is how a gateway does that shares its calls with others.
type Cluster struct {
	SchemaVersion schema.Version   `json:"schema_version"`
	Name          string           `json:"name"`
	Degraded      bool             `json:"degraded"`            // packets do not wait for the shared store, or it lacks calls of this gateway
	Broken        bool             `json:"broken"`              // the shared store does not answer
	Whole         bool             `json:"whole"`               // all was read that the shared store has
	NotReady      string           `json:"not_ready,omitempty"` // why the gateway must get no address
	Lag           schema.Seconds   `json:"lag_seconds"`         // for how long the shared store has not told what it has
	SameName      bool             `json:"same_name,omitempty"` // another gateway has the name of this one
	Pending       int              `json:"pending"`             // calls that are to be written
	Revision      int64            `json:"revision"`            // of the shared store, up to which this gateway follows
	LastError     string           `json:"last_error,omitempty"`
	Members       []ClusterMember  `json:"members"`
	Addresses     []ClusterAddress `json:"addresses"`
	Astray        []ClusterAstray  `json:"astray,omitempty"`
}

// ClusterAstray is a control connection of another gateway of which packets pass this one.
type ClusterAstray struct {
	Client  string      `json:"client"`
	Server  string      `json:"server"`
	Address string      `json:"address"`
	Owner   string      `json:"owner"`
	Last    schema.Time `json:"last"` // packet
}

// ClusterMember is a gateway that is up.
type ClusterMember struct {
	Slot    int         `json:"slot"`
	Name    string      `json:"name"`
	Version string      `json:"version"`
	Since   schema.Time `json:"since"` // of its daemon's start
}

// ClusterAddress is a public address.
type ClusterAddress struct {
	Address string `json:"address"` // "198.51.100.1 part 1/2" for a part of it
	Owner   string `json:"owner"`   // by the shared store, "" for nobody
	Mine    bool   `json:"mine"`    // this gateway edits its connections
	Here    bool   `json:"here"`    // it is on an interface of this gateway, or a command has said so
	Calls   int    `json:"calls"`
}

// State is the state in words.
func (c *Cluster) State() string {
	switch {
	case c.Broken:
		return "degraded: the shared store does not answer, and calls go on without it"
	case !c.Whole:
		return "starting: reading the shared store"
	case c.SameName:
		return "degraded: another gateway has the same name as this one: give each gateway its own --cluster-name"
	case c.Degraded && c.Lag > 0:
		return fmt.Sprintf("degraded: nothing heard from the shared store for %.0f s", c.Lag)
	case c.Degraded:
		return "degraded: the shared store lacks calls of this gateway, or does not report those of others"
	}
	return ClusterOK
}

// ClusterOK is the state of a gateway with which all is well in its cluster.
const ClusterOK = "ok"

// ClusterControl is what the commands for a cluster ask of a gateway. It must be safe to call
// from any goroutine.
type ClusterControl struct {
	Status func() Cluster
	Take   func(public netip.Addr) error
	Drop   func(public netip.Addr) error
	// Owners returns a function that says who owns a call, and whether that is this gateway.
	Owners func() func(*calls.View) (owner string, here bool)
}

func (c *ClusterControl) addTo(mux *http.ServeMux) {
	mux.HandleFunc("GET /cluster", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A reader that went away is the only way for this to fail.
		_ = json.NewEncoder(w).Encode(c.Status())
	})
	for verb, do := range map[string]func(netip.Addr) error{"take": c.Take, "drop": c.Drop} {
		mux.HandleFunc("POST /cluster/"+verb, func(w http.ResponseWriter, r *http.Request) {
			public, err := netip.ParseAddr(r.FormValue("address"))
			if err != nil || !public.Is4() {
				http.Error(w, "address: want an IPv4 address", http.StatusBadRequest)
				return
			}
			if err := do(public); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
}

// Namer returns a function that names the owners of calls as they are shown. For a gateway alone,
// nil, it names none.
func (c *ClusterControl) Namer() func(*calls.View, *Call) {
	if c == nil {
		return func(*calls.View, *Call) {}
	}
	of := c.Owners()
	return func(v *calls.View, shown *Call) { shown.Owner, shown.OwnedHere = of(v) }
}

// Cluster asks how a gateway does that shares its calls with others.
func (c Client) Cluster(ctx context.Context) (st Cluster, err error) {
	body, err := c.get(ctx, "/cluster")
	if err != nil {
		return st, err
	}
	if err := c.read(ctx, body, &st); err != nil {
		return Cluster{}, fmt.Errorf("read the daemon's cluster: %w", err)
	}
	return st, nil
}

// Move tells the daemon that a public address is here from now on, or, with verb drop, no longer.
func (c Client) Move(ctx context.Context, verb string, public netip.Addr) error {
	body, err := c.ask(ctx, http.MethodPost, "/cluster/"+verb+"?address="+url.QueryEscape(public.String()))
	if err != nil {
		return err
	}
	return body.Close()
}

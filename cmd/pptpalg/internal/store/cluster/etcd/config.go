package etcd

import (
	"context"
	"net"
)

// Config is how a store is reached.
type Config struct {
	Target   Target
	Files    Files
	Insecure bool // plain HTTP

	dial func(context.Context, string) (net.Conn, error) // for tests
}

// Files are what proves who is who. Each is read again for each connection, so that new ones
// count without a restart.
type Files struct {
	Cert, Key string // of this gateway
	CA        string // who vouches for the servers
}

// Health is what an etcd cluster says of itself.
type Health struct {
	Endpoints []Endpoint // as they are configured
	Voters    int        // members that vote, 0 if nobody says
}

// Endpoint is how one does.
type Endpoint struct {
	Name    string
	Err     error // why it does not answer
	Version string
	Leader  bool // it knows a leader: most members are up
	Full    bool // etcd's quota is used up, and it takes nothing any more
}

// Rights are what etcd lets this gateway do below its prefix, and whether it may do so elsewhere.
type Rights struct {
	Read, Write error // nil: it may
	Elsewhere   bool  // it may write outside of the prefix
}

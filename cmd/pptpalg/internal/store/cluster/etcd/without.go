//go:build nocluster

package etcd

import (
	"context"
	"errors"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
)

// Store is there for those who would use one. Nobody gets it from Open.
type Store struct{ cluster.Shared }

var errWithout = errors.New("this pptpalg is built without clusters (build tag nocluster): remove --cluster, or install a full build")

// Open refuses.
func Open(Config) (*Store, error) { return nil, errWithout }

// Ask is what "pptpalg check" asks of a store, as are the others.
func (*Store) Ask(context.Context, time.Duration) Health { return Health{} }

// Prefix is nothing.
func (*Store) Prefix() string { return "" }

// Rights are none.
func (*Store) Rights(context.Context) (Rights, error) { return Rights{}, errWithout }

// Time refuses.
func (*Store) Time(context.Context, string, int) ([]time.Duration, error) { return nil, errWithout }

// Count refuses.
func (*Store) Count(context.Context) (int, error) { return 0, errWithout }

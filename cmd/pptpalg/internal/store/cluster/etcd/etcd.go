//go:build !nocluster

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

const (
	pageSize    = 20_000           // calls: small pages cost much more
	bucket      = 10 * time.Second // for how long one lease is given to what is over
	dialTimeout = 2 * time.Second
	pingEvery   = 10 * time.Second // etcd takes more for an attack
	pingTimeout = 3 * time.Second
	redialEvery = 500 * time.Millisecond // at most, however long etcd is gone; the library's own is two minutes
)

// Store is a shared store in etcd.
type Store struct {
	client *clientv3.Client
	prefix string

	mu     sync.Mutex // guards leases
	leases map[int64]lease
}

// lease is one that all keys get, for a time, that are to disappear after the same time.
type lease struct {
	id    clientv3.LeaseID
	until time.Time // that it is given out
}

var _ cluster.Shared = (*Store)(nil)

// Open returns the store. It does not wait for it: the first use tells whether it answers.
func Open(cfg Config) (*Store, error) {
	secure, err := cfg.Files.secure(cfg.Insecure)
	if err != nil {
		return nil, fmt.Errorf("open shared store: %w", err)
	}
	scheme := "https://"
	if secure == nil {
		scheme = "http://"
	}
	c := clientv3.Config{
		Logger:      zap.NewNop(),
		DialTimeout: dialTimeout, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingTimeout,
	}
	redial := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: dialTimeout}
	redial.Backoff.BaseDelay, redial.Backoff.MaxDelay = redialEvery/5, redialEvery
	c.DialOptions = append(c.DialOptions, grpc.WithConnectParams(redial))
	for _, e := range cfg.Target.Endpoints {
		c.Endpoints = append(c.Endpoints, scheme+e)
	}
	if secure != nil {
		c.DialOptions = append(c.DialOptions, grpc.WithTransportCredentials(secure))
	}
	if cfg.dial != nil {
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(cfg.dial))
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("open shared store: %w", err)
	}
	return &Store{client: client, prefix: cfg.Target.Prefix, leases: make(map[int64]lease)}, nil
}

// Close is part of cluster.Shared.
func (s *Store) Close() error { return s.client.Close() }

// Commit is part of cluster.Shared.
func (s *Store) Commit(ctx context.Context, t state.Transaction) (state.Mark, error) {
	for again := false; ; again = true {
		mark, err := s.commit(ctx, t, s.leaseOf)
		if again || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return mark, err
		}
		s.forgetLeases() // nothing was done: the store has lost them, or time has
	}
}

// granter returns the lease of a key that is to disappear.
type granter func(ctx context.Context, keep time.Duration) (clientv3.LeaseID, error)

func (s *Store) commit(ctx context.Context, t state.Transaction, grant granter) (state.Mark, error) {
	var guards []clientv3.Cmp
	var failed []clientv3.Op
	for _, g := range t.Guards {
		guards = append(guards, clientv3.Compare(clientv3.ModRevision(s.prefix+g.Key), "=", g.Revision))
		failed = append(failed, clientv3.OpGet(s.prefix+g.Key))
	}
	puts, err := s.puts(ctx, t.Puts, grant)
	if err != nil {
		return state.Mark{}, err
	}
	answer, err := s.client.Txn(ctx).If(guards...).Then(puts...).Else(failed...).Commit()
	if err != nil {
		return state.Mark{}, fmt.Errorf("write to the shared store: %w", err)
	}
	if answer.Succeeded {
		return mark(answer.Header.ClusterId, answer.Header.Revision), nil
	}
	fenced := &cluster.Fenced{}
	for i, r := range answer.Responses {
		items := s.items(r.GetResponseRange().Kvs)
		if len(items) == 0 {
			items = []state.Item{{Key: t.Guards[i].Key}}
		}
		fenced.Now = append(fenced.Now, items...)
	}
	return state.Mark{}, fenced
}

func mark(cluster uint64, revision int64) state.Mark {
	return state.Mark{Cluster: cluster, Revision: revision}
}

// puts returns the operations of a transaction. Without any it reads something, so that it is
// asked what most members know.
func (s *Store) puts(ctx context.Context, puts []state.Put, grant granter) (ops []clientv3.Op, err error) {
	if len(puts) == 0 {
		return []clientv3.Op{clientv3.OpGet(s.prefix+state.OwnerSection, clientv3.WithPrefix(), clientv3.WithCountOnly())}, nil
	}
	for _, p := range puts {
		var id clientv3.LeaseID
		if p.Keep > 0 {
			if id, err = grant(ctx, p.Keep); err != nil {
				return nil, err
			}
		}
		if p.Value == nil {
			ops = append(ops, clientv3.OpDelete(s.prefix+p.Key))
			continue
		}
		ops = append(ops, clientv3.OpPut(s.prefix+p.Key, string(p.Value), clientv3.WithLease(id)))
	}
	return ops, nil
}

// leaseOf returns the lease of what disappears after a time. What comes within ten seconds gets
// the same one.
func (s *Store) leaseOf(ctx context.Context, keep time.Duration) (clientv3.LeaseID, error) {
	seconds := int64((keep + bucket + time.Second - 1) / time.Second)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, there := s.leases[seconds]; there && now.Before(l.until) {
		return l.id, nil
	}
	granted, err := s.client.Grant(ctx, seconds)
	if err != nil {
		return 0, fmt.Errorf("lease of the shared store: %w", err)
	}
	s.leases[seconds] = lease{granted.ID, now.Add(bucket)}
	return granted.ID, nil
}

func (s *Store) forgetLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.leases)
}

func (s *Store) items(kvs []*mvccpb.KeyValue) []state.Item {
	items := make([]state.Item, 0, len(kvs))
	for _, kv := range kvs {
		items = append(items, s.item(kv))
	}
	return items
}

// item has a value even if that is empty: without one the key would be taken for deleted.
func (s *Store) item(kv *mvccpb.KeyValue) state.Item {
	value := kv.Value
	if value == nil {
		value = []byte{}
	}
	return state.Item{Key: strings.TrimPrefix(string(kv.Key), s.prefix), Value: value, Revision: kv.ModRevision}
}

// Roster is part of cluster.Shared.
func (s *Store) Roster(ctx context.Context) ([]state.Item, state.Mark, error) {
	var gets []clientv3.Op
	for _, section := range []string{state.MemberSection, state.OwnerSection, state.SlotSection} {
		gets = append(gets, clientv3.OpGet(s.prefix+section, clientv3.WithPrefix()))
	}
	answer, err := s.client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, state.Mark{}, fmt.Errorf("read the shared store: %w", err)
	}
	var items []state.Item
	for _, r := range answer.Responses {
		items = append(items, s.items(r.GetResponseRange().Kvs)...)
	}
	return items, mark(answer.Header.ClusterId, answer.Header.Revision), nil
}

// Load is part of cluster.Shared.
func (s *Store) Load(ctx context.Context, m state.Mark, page func([]state.Item)) error {
	from := s.prefix + state.CallSection
	end := clientv3.GetPrefixRangeEnd(from)
	for {
		answer, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(m.Revision))
		switch {
		case errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev):
			return cluster.ErrCompacted
		case err != nil:
			return fmt.Errorf("read the shared store: %w", err)
		case answer.Header.ClusterId != m.Cluster:
			return cluster.ErrCompacted
		}
		page(s.items(answer.Kvs))
		if !answer.More {
			return nil
		}
		from = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}

// Watch is part of cluster.Shared.
func (s *Store) Watch(ctx context.Context, after state.Mark, changed func([]state.Item)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for answer := range s.client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(after.Revision+1), clientv3.WithCreatedNotify()) {
		switch err := answer.Err(); {
		case answer.CompactRevision != 0 || errors.Is(err, rpctypes.ErrCompacted):
			return cluster.ErrCompacted
		case err != nil:
			return fmt.Errorf("watch the shared store: %w", err)
		case after.Lost(mark(answer.Header.ClusterId, answer.Header.Revision)):
			return cluster.ErrCompacted // it is another store, or an older one
		case len(answer.Events) > 0:
			changed(s.changes(answer.Events))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errWatch
}

var errWatch = errors.New("watch the shared store: the watch has ended")

func (s *Store) changes(events []*clientv3.Event) []state.Item {
	items := make([]state.Item, 0, len(events))
	for _, e := range events {
		it := s.item(e.Kv)
		if e.Type == mvccpb.DELETE {
			it.Value = nil
		}
		items = append(items, it)
	}
	return items
}

// held is a lease that is kept alive.
type held struct {
	s      *Store
	id     clientv3.LeaseID
	lost   chan struct{}
	cancel context.CancelFunc
}

// Hold is part of cluster.Shared.
func (s *Store) Hold(ctx context.Context, t state.Transaction, ttl time.Duration) (cluster.Held, error) {
	granted, err := s.client.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return nil, fmt.Errorf("lease of the shared store: %w", err)
	}
	living, cancel := context.WithCancel(context.Background())
	h := &held{s: s, id: granted.ID, lost: make(chan struct{}), cancel: cancel}
	answers, err := s.client.KeepAlive(living, granted.ID)
	if err == nil {
		_, err = s.commit(ctx, leased(t), func(context.Context, time.Duration) (clientv3.LeaseID, error) { return granted.ID, nil })
	}
	if err != nil {
		return nil, errors.Join(err, h.Release(ctx))
	}
	go func() {
		defer close(h.lost)
		for range answers { // until it is not kept alive any more
		}
	}()
	return h, nil
}

// leased has all keys of a transaction disappear with a lease.
func leased(t state.Transaction) state.Transaction {
	puts := make([]state.Put, 0, len(t.Puts))
	for _, p := range t.Puts {
		p.Keep = time.Second
		puts = append(puts, p)
	}
	return state.Transaction{Guards: t.Guards, Puts: puts}
}

func (h *held) Lost() <-chan struct{} { return h.lost }

func (h *held) Release(ctx context.Context) error {
	h.cancel()
	_, err := h.s.client.Revoke(ctx, h.id)
	return err
}

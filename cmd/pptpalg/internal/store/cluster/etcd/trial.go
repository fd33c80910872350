//go:build !nocluster

package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// What "pptpalg check" asks of an etcd cluster.

// Ask asks all endpoints at once, each for the time given at most.
func (s *Store) Ask(ctx context.Context, within time.Duration) Health {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	all := s.client.Endpoints()
	h := Health{Endpoints: make([]Endpoint, len(all))}
	var asking sync.WaitGroup
	for i, name := range all {
		asking.Go(func() { h.Endpoints[i] = s.endpoint(ctx, name) })
	}
	asking.Go(func() { h.Voters = s.voters(ctx) })
	asking.Wait()
	return h
}

func (s *Store) voters(ctx context.Context) (n int) {
	answer, err := s.client.MemberList(ctx)
	if err != nil {
		return 0
	}
	for _, m := range answer.Members {
		if !m.IsLearner {
			n++
		}
	}
	return n
}

func (s *Store) endpoint(ctx context.Context, name string) Endpoint {
	answer, err := s.client.Status(ctx, name)
	if err != nil {
		return Endpoint{Name: name, Err: err}
	}
	full := slices.ContainsFunc(answer.Errors, func(e string) bool { return e == rpctypes.ErrNoSpace.Error() }) || s.alarmed(ctx)
	return Endpoint{Name: name, Version: answer.Version, Leader: answer.Leader != 0, Full: full}
}

// alarmed reports whether a member has used up its quota.
func (s *Store) alarmed(ctx context.Context) bool {
	answer, err := s.client.AlarmList(ctx)
	return err == nil && slices.ContainsFunc(answer.Alarms, func(a *etcdserverpb.AlarmMember) bool { return a.Alarm == etcdserverpb.AlarmType_NOSPACE })
}

// Prefix is what all keys begin with.
func (s *Store) Prefix() string { return s.prefix }

// Rights finds out what this gateway may do. It writes nothing. An error is not about rights.
func (s *Store) Rights(ctx context.Context) (r Rights, err error) {
	_, read := s.client.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	var writes []clientv3.Op
	for _, section := range []string{state.CallSection, state.MemberSection, state.OwnerSection, state.SlotSection, state.CheckSection} {
		writes = append(writes, clientv3.OpPut(s.prefix+section, ""))
	}
	write := s.mayDo(ctx, writes...)
	elsewhere := s.mayDo(ctx, clientv3.OpPut(elsewhereKey, ""))
	for _, e := range []error{read, write} {
		if e != nil && !denied(e) {
			return Rights{}, fmt.Errorf("ask the shared store: %w", e)
		}
	}
	return Rights{Read: read, Write: write, Elsewhere: elsewhere == nil}, nil
}

// elsewhereKey is below no gateway's prefix. Nothing is ever written there.
const elsewhereKey = "\x00pptpalg check"

// mayDo returns nil if this gateway may do operations. They are not done: etcd asks for the rights
// to all that a transaction may do, and this one's guard never holds, since revisions are
// positive.
func (s *Store) mayDo(ctx context.Context, ops ...clientv3.Op) error {
	never := clientv3.Compare(clientv3.ModRevision(s.prefix+state.CheckSection), "<", 0)
	_, err := s.client.Txn(ctx).If(never).Then(ops...).Commit()
	return err
}

// denied reports whether an error is etcd's answer to somebody without the right.
func denied(err error) bool {
	return slices.ContainsFunc([]error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrAuthFailed},
		func(e error) bool { return errors.Is(err, e) })
}

// Time writes a key so many times, one time after the other, deletes it, and returns how long each
// write has taken.
func (s *Store) Time(ctx context.Context, name string, times int) (took []time.Duration, err error) {
	key := s.prefix + state.CheckSection + name
	for range times {
		began := time.Now()
		if _, err := s.client.Put(ctx, key, ""); err != nil {
			return nil, fmt.Errorf("write to the shared store: %w", err)
		}
		took = append(took, time.Since(began))
	}
	if _, err := s.client.Delete(ctx, key); err != nil {
		return nil, fmt.Errorf("write to the shared store: %w", err)
	}
	return took, nil
}

// Count returns how many calls the store has, those that are over for less than their rest included.
func (s *Store) Count(ctx context.Context) (int, error) {
	answer, err := s.client.Get(ctx, s.prefix+state.CallSection, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read the shared store: %w", err)
	}
	return int(answer.Count), nil
}

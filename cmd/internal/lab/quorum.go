package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// Quorum is a cluster of etcd, all members on one host. They write to the disk as they would in
// earnest.
type Quorum struct {
	host    *Host
	addr    netip.Addr
	members []*Process
	logs    []*Log
	client  *http.Client
}

const (
	etcdPort     = 2379 // of the first member for clients; the next port is for its peers
	etcdPortStep = 10
)

// StartQuorum starts members that listen to an address of the host, and waits until they answer. The
// caller must call Close.
func StartQuorum(h *Host, addr netip.Addr, members int) (*Quorum, error) {
	e := &Quorum{host: h, addr: addr, members: make([]*Process, members), logs: make([]*Log, members)}
	dial := func(ctx context.Context, _, at string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(at)
		if err != nil {
			return nil, err
		}
		return h.Dial(ctx, netip.AddrPort{}, to)
	}
	e.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	if err := Need("etcd"); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	if err := e.StartAll(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Endpoint is where a member serves clients.
func (e *Quorum) Endpoint(i int) netip.AddrPort {
	return netip.AddrPortFrom(e.addr, uint16(etcdPort+i*etcdPortStep))
}

func (e *Quorum) peer(i int) string {
	return fmt.Sprintf("http://%v:%d", e.addr, etcdPort+i*etcdPortStep+1)
}

// Target is the whole cluster as pptpalg's flag --cluster names it.
func (e *Quorum) Target() string {
	var all []string
	for i := range e.members {
		all = append(all, e.Endpoint(i).String())
	}
	return "etcd://" + strings.Join(all, ",")
}

// Start starts a member that does not run, with the data that it has.
func (e *Quorum) Start(i int) error {
	var all []string
	for j := range e.members {
		all = append(all, fmt.Sprintf("m%d=%s", j, e.peer(j)))
	}
	client := "http://" + e.Endpoint(i).String()
	cmd, err := e.host.Command(context.Background(), "etcd", "--name", fmt.Sprintf("m%d", i),
		"--data-dir", filepath.Join(e.host.dir, fmt.Sprintf("etcd-%d", i)), "--logger", "zap", "--log-level", "error",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", e.peer(i), "--initial-advertise-peer-urls", e.peer(i), "--initial-cluster", strings.Join(all, ","),
		"--heartbeat-interval", "50", "--election-timeout", "300")
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	e.logs[i] = new(Log)
	cmd.Stderr = e.logs[i]
	if e.members[i], err = e.host.Start(cmd); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	return nil
}

// Kill kills a member. Its data stay.
func (e *Quorum) Kill(i int) error { return e.members[i].Kill() }

// KillAll kills all members.
func (e *Quorum) KillAll() error {
	var errs []error
	for i := range e.members {
		errs = append(errs, e.Kill(i))
	}
	return errors.Join(errs...)
}

// StartAll starts all members again, and waits until they have a leader.
func (e *Quorum) StartAll() error {
	for i := range e.members {
		if err := e.Start(i); err != nil {
			return err
		}
	}
	if err := Poll(2*Patience, func() bool { _, err := e.Leader(); return err == nil }); err != nil {
		return fmt.Errorf("start etcd: %w: %s", err, e.logs[0])
	}
	return nil
}

var errNoLeader = errors.New("no member of etcd is the leader")

// Leader returns which member is the leader.
func (e *Quorum) Leader() (int, error) {
	for i := range e.members {
		if text, err := e.Metrics(i); err == nil && bytes.Contains(text, []byte("\netcd_server_is_leader 1\n")) {
			return i, nil
		}
	}
	return 0, errNoLeader
}

// Members returns how many members there are, those included that do not run.
func (e *Quorum) Members() int { return len(e.members) }

// Metrics returns the metrics of a member, in Prometheus's format.
func (e *Quorum) Metrics(i int) ([]byte, error) {
	resp, err := e.client.Get("http://" + e.Endpoint(i).String() + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read metrics of etcd: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics of etcd: %w", err)
	}
	return text, nil
}

// EtcdItem is a key with its value.
type EtcdItem struct{ Key, Value []byte }

// Range returns all that stands below a prefix, and the revision. Any member that answers is asked.
func (e *Quorum) Range(prefix string) ([]EtcdItem, int64, error) {
	end := []byte(prefix)
	end[len(end)-1]++
	var answer struct {
		Header struct {
			Revision int64 `json:",string"`
		}
		Kvs []EtcdItem
	}
	err := e.ask("range", map[string]any{"key": []byte(prefix), "range_end": end}, &answer)
	return answer.Kvs, answer.Header.Revision, err
}

// Compact has etcd forget what was before a revision.
func (e *Quorum) Compact(revision int64) error {
	var answer struct{}
	return e.ask("compaction", map[string]any{"revision": revision, "physical": true}, &answer)
}

// ask asks the members in turn, until one answers.
func (e *Quorum) ask(what string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("ask etcd for %s: %w", what, err)
	}
	errs := []error{}
	for i := range e.members {
		if err := e.askOne(i, what, body, answer); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return fmt.Errorf("ask etcd for %s: %w", what, errors.Join(errs...))
}

func (e *Quorum) askOne(i int, what string, body []byte, answer any) error {
	resp, err := e.client.Post("http://"+e.Endpoint(i).String()+"/v3/kv/"+what, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// Close kills all members.
func (e *Quorum) Close() error {
	var errs []error
	for _, m := range e.members {
		if m != nil {
			errs = append(errs, m.Kill())
		}
	}
	return errors.Join(errs...)
}

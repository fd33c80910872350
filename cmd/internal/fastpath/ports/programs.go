package ports

import (
	"errors"
	"strings"

	"github.com/cilium/ebpf"
	attached "github.com/cilium/ebpf/link"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ours reports whether a program is the fast path's, by its name. Who may not ask takes it
// for one.
func ours(id uint32) bool {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return errors.Is(err, unix.EPERM)
	}
	defer p.Close()
	info, err := p.Info()
	return err == nil && strings.HasPrefix(info.Name, ProgramPrefix)
}

// askFilters counts what others have attached to an interface's tcx and clsact.
func askFilters(c *netlink.Conn, index int, ours func(program uint32) bool) (filters, error) {
	in, err := askHook(c, index, ingress, ours)
	if err != nil {
		return filters{}, err
	}
	out, err := askHook(c, index, egress, ours)
	if err != nil {
		return filters{}, err
	}
	return filters{in: in.others, out: out.others}, nil
}

// askTCX counts programs. Kernels before 6.6 have none: they do not know the question.
func askTCX(index int, attach ebpf.AttachType, ours func(program uint32) bool, n *owned) error {
	found, err := attached.QueryPrograms(attached.QueryOptions{Target: index, Attach: attach})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range found.Programs {
		n.add(ours(uint32(p.ID)))
	}
	return nil
}

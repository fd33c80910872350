package ports

import (
	"errors"
	"fmt"
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
func askFilters(c *netlink.Conn, index int, ours func(program uint32) bool) (n filters, err error) {
	for _, way := range []struct {
		count  *int
		attach ebpf.AttachType
		parent uint32
	}{
		{&n.in, ebpf.AttachTCXIngress, clsactIngress},
		{&n.out, ebpf.AttachTCXEgress, clsactEgress},
	} {
		programs, err := askTCX(index, way.attach, ours)
		if err != nil {
			return filters{}, fmt.Errorf("tcx: %w", err)
		}
		classifiers, err := askClassifiers(c, index, way.parent, ours)
		if err != nil {
			return filters{}, fmt.Errorf("clsact: %w", err)
		}
		*way.count = programs + classifiers
	}
	return n, nil
}

// askTCX counts others' programs. Kernels before 6.6 have none: they do not know the question.
func askTCX(index int, attach ebpf.AttachType, ours func(program uint32) bool) (others int, err error) {
	found, err := attached.QueryPrograms(attached.QueryOptions{Target: index, Attach: attach})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, p := range found.Programs {
		if !ours(uint32(p.ID)) {
			others++
		}
	}
	return others, nil
}

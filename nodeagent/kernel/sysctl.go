package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"golang.org/x/sys/unix"
)

// observeSysctls reads the sysctls of one namespace on one thread.
func (s *session) observeSysctls(netns string, keys []netstate.Key, add func(netstate.Key, netstate.Object, error)) {
	ns, err := s.namespace(netns)
	if err == nil {
		err = ns.run(func() error {
			for _, key := range keys {
				object, err := observeSysctl(key)
				add(key, object, err)
			}
			return nil
		})
	}
	if err == nil {
		return
	}
	for _, key := range keys {
		add(key, nil, err)
	}
}

func observeSysctl(key netstate.Key) (netstate.Object, error) {
	value, err := sysctl.Read(key.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return sysctlObject(key, value), nil
}

// observeSetting reads a sysctl of a link from the link's message, which the session has
// read anyway. To open a file below /proc/sys takes the kernel longer the more namespaces
// have a link of that name.
func (s *session) observeSetting(key netstate.Key) (netstate.Object, error) {
	_, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	if value, there := l.Value(key.Name); there {
		return sysctlObject(key, value), nil
	}
	return nil, nil
}

func sysctlObject(key netstate.Key, value string) netstate.Sysctl {
	return netstate.Sysctl{Netns: key.Netns, Link: key.Link, Path: key.Name, Value: value, Restore: key.Kind == netstate.KindSysctlNode}
}

// applySysctls writes the sysctls of one namespace on one thread.
func (s *session) applySysctls(steps []plan.Step, errs []error) {
	byNetns := map[string][]int{}
	for i, step := range steps {
		if isSysctl(step.Key) {
			byNetns[step.Key.Netns] = append(byNetns[step.Key.Netns], i)
		}
	}
	for netns, indexes := range byNetns {
		s.trim()
		slices.SortStableFunc(indexes, func(a, b int) int { return sysctlRank(steps[a]) - sysctlRank(steps[b]) })
		ns, err := s.namespace(netns)
		if err == nil {
			err = ns.run(func() error {
				for _, i := range indexes {
					errs[i] = sysctlError(steps[i], s.k.applySysctl(steps[i]))
				}
				return nil
			})
		}
		if err == nil {
			continue
		}
		for _, i := range indexes {
			if steps[i].Op != plan.Delete || !missing(err) {
				errs[i] = sysctlError(steps[i], err)
			}
		}
	}
}

// sysctlRank orders writes within a namespace: switching forwarding on makes the
// kernel drop the routers of interfaces whose accept_ra is not 2 yet.
func sysctlRank(step plan.Step) int {
	_, spreads := sysctl.Spreading[step.Key.Name]
	switch {
	case !spreads:
		return 0
	case step.Op == plan.Delete:
		return -1
	}
	return 1
}

func sysctlError(step plan.Step, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EROFS) && sysctl.Writable() != nil {
		err = ErrSysctlReadOnly
	}
	return fmt.Errorf("%s %s: %w", step.Op, step.Key, err)
}

// applySysctl writes one value. A sysctl of a link goes with the link, so only
// recorded ones are undone.
func (k *Kernel) applySysctl(step plan.Step) error {
	if step.Op == plan.Delete {
		if step.Key.Kind == netstate.KindSysctlNode {
			return k.sysctls.Restore(step.Key.Name)
		}
		return nil
	}
	want, ok := step.New.(netstate.Sysctl)
	if !ok {
		return errors.ErrUnsupported
	}
	err := k.setSysctl(want)
	if errors.Is(err, fs.ErrNotExist) && want.Link != "" {
		return fmt.Errorf("%w: %w", ErrLinkNotFound, err)
	}
	return err
}

func (k *Kernel) setSysctl(want netstate.Sysctl) error {
	if !want.Restore {
		return k.sysctls.Write(want.Path, want.Value)
	}
	if want.Netns != "" {
		return fmt.Errorf("record a sysctl of %s: %w", netnsName(want.Netns), errors.ErrUnsupported)
	}
	return k.sysctls.Record(want.Path, want.Value)
}

// DamagedRecords returns the files that should be records of sysctls and cannot
// be read, with the reason. The sysctl stays as it is: its previous value is lost.
func (k *Kernel) DamagedRecords() map[string]error { return k.sysctls.Damaged() }

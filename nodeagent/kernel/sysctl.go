package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

const procSys = "/proc/sys"

// sysctlFile is the file of a sysctl. Paths hold interface names, which come
// from users.
func sysctlFile(name string) (string, error) {
	if !filepath.IsLocal(name) || path.Clean(name) != name || name == "." {
		return "", fmt.Errorf("%q is not the path of a sysctl", name)
	}
	return path.Join(procSys, name), nil
}

// readSysctl reads a value in the calling thread's namespace, fields parted by
// single spaces. It fails with fs.ErrNotExist where there is none.
func readSysctl(name string) (string, error) {
	file, err := sysctlFile(name)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	return strings.Join(strings.Fields(string(b)), " "), err
}

func (k *Kernel) writeSysctl(name, value string) error {
	file, err := sysctlFile(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	k.changed()
	return errors.Join(err, f.Close())
}

// observeSysctls reads the sysctls of one namespace on one thread.
func (s *session) observeSysctls(netns string, keys []netstate.Key, add func(netstate.Key, netstate.Object, error)) {
	p, err := s.place(netns)
	if err == nil {
		err = p.run(func() error {
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
	value, err := readSysctl(key.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return netstate.Sysctl{Netns: key.Netns, Link: key.Link, Path: key.Name, Value: value, Restore: key.Kind == netstate.KindSysctlNode}, nil
}

// applySysctls writes those of one namespace on one thread.
func (s *session) applySysctls(steps []plan.Step, errs []error) {
	byNetns := map[string][]int{}
	for i, step := range steps {
		if sysctl(step.Key) {
			byNetns[step.Key.Netns] = append(byNetns[step.Key.Netns], i)
		}
	}
	for netns, indexes := range byNetns {
		s.trim()
		slices.SortStableFunc(indexes, func(a, b int) int { return sysctlRank(steps[a]) - sysctlRank(steps[b]) })
		p, err := s.place(netns)
		if err == nil {
			err = p.run(func() error {
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
	_, spreads := spreading[step.Key.Name]
	switch {
	case !spreads:
		return 0
	case step.Op == plan.Delete:
		return -1
	}
	return 1
}

// sysctlsWritable returns ErrSysctlReadOnly where /proc/sys is mounted read-only. It
// is asked before anything is made that needs sysctls of its own.
func sysctlsWritable() error {
	var fs unix.Statfs_t
	if unix.Statfs(path.Join(procSys, "net"), &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return ErrSysctlReadOnly
	}
	return nil
}

func sysctlError(step plan.Step, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EROFS) && sysctlsWritable() != nil {
		err = ErrSysctlReadOnly
	}
	return fmt.Errorf("%s %s: %w", step.Op, step.Key, err)
}

// applySysctl writes one value. A sysctl of a link goes with the link, so only
// recorded ones are undone.
func (k *Kernel) applySysctl(step plan.Step) error {
	if step.Op == plan.Delete {
		if step.Key.Kind == netstate.KindSysctlNode {
			return k.restoreSysctl(step.Key.Name)
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
		return k.writeSysctl(want.Path, want.Value)
	}
	if want.Netns != "" {
		return fmt.Errorf("record a sysctl of %s: %w", placeName(want.Netns), errors.ErrUnsupported)
	}
	return k.setNodeSysctl(want.Path, want.Value)
}

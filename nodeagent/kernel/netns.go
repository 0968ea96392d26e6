package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (s *session) observeNetns(key netstate.Key) (netstate.Object, error) {
	ns, err := s.namespace(key.Netns)
	if errors.Is(err, ErrNetnsNotFound) && s.k.halfMade(key.Netns) {
		return netstate.Netns{Name: key.Netns, Managed: true, HalfMade: true}, nil
	}
	if other := (netnsdir.InsteadError{}); errors.As(err, &other) {
		return netstate.Netns{Name: key.Netns, Instead: other.What, Apart: other.Apart}, nil
	}
	if err != nil {
		return nil, err
	}
	managed, err := ns.managed()
	if err != nil {
		return nil, err
	}
	return netstate.Netns{Name: key.Netns, Managed: managed}, nil
}

// managed reports whether the namespace's loopback bears our mark.
func (ns *namespace) managed() (bool, error) {
	lo, err := ns.link("lo")
	if err != nil {
		return false, err
	}
	return lo.Alias == ns.k.netnsMark(ns.netns), nil
}

func (k *Kernel) netnsMark(name string) string { return netstate.NetnsMark(k.opts.Source, name) }

func (s *session) applyNetns(op plan.Op, n netstate.Netns) error {
	path, err := s.k.dir.File(n.Name)
	switch {
	case err != nil:
	case (op == plan.Create || op == plan.Update) && n.Managed:
		// An update is of a half-made one; createNetns refuses any other.
		err = s.createNetns(n.Name, path)
	case op == plan.Create:
		err = ErrNetnsNotFound
	case op == plan.Delete:
		err = s.deleteNetns(n.Name, path)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("%s network namespace %s: %w", op, n.Name, err)
	}
	return nil
}

// createNetns leaves behind, wherever it is interrupted, nothing, a plain file
// with our mark, or a namespace whose loopback bears it.
func (s *session) createNetns(name, path string) error {
	if err := sysctl.Writable(); err != nil {
		return err
	}
	if err := s.k.dir.MountsApart(); err != nil {
		return err
	}
	if err := s.k.dir.Share(); err != nil {
		return err
	}
	err := s.k.dir.CreateMarked(path, s.k.netnsMark(name))
	if errors.Is(err, unix.EEXIST) {
		err = s.continueNetns(name)
	}
	if err != nil {
		return err
	}
	s.leave(name)
	if err := netnsdir.OnFreshThread(func() error { return s.k.dir.BindNew(path, func() error { return s.k.markLoopback(name) }) }); err != nil {
		return err
	}
	ns, err := s.namespace(name)
	if err != nil {
		return err
	}
	return s.assignNSID(ns)
}

// continueNetns looks at a file that is in the way.
func (s *session) continueNetns(name string) error {
	if s.k.halfMade(name) {
		return nil
	}
	ns, err := s.namespace(name)
	if err != nil {
		return ErrForeign
	}
	managed, err := ns.managed()
	switch {
	case err != nil:
		return err
	case managed:
		return ErrExists
	}
	return ErrForeign
}

// deleteNetns removes a namespace or our half-made file. The namespace
// itself ends when its last process does.
func (s *session) deleteNetns(name, path string) error {
	ns, err := s.namespace(name)
	switch {
	case err == nil:
		managed, err := ns.managed()
		if err != nil {
			return err
		}
		if !managed {
			return ErrForeign
		}
		s.leave(name)
		if err := s.k.dir.Unmount(path); err != nil {
			return err
		}
	case !errors.Is(err, ErrNetnsNotFound):
		return err
	case !s.k.halfMade(name):
		if _, err := os.Lstat(path); err == nil {
			return ErrForeign
		}
		return nil
	}
	return s.k.dir.Remove(path)
}

// halfMade reports whether the file is left from our creation that ended before its
// mount.
func (k *Kernel) halfMade(name string) bool { return k.dir.HalfMade(name, k.netnsMark(name)) }

// markLoopback marks and brings up the loopback of the calling thread's namespace.
func (k *Kernel) markLoopback(name string) error {
	c, err := rtnl.Dial(k.sent)
	if err != nil {
		return err
	}
	defer c.Close()
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index, body.Flags, body.Change = 1, unix.IFF_UP, unix.IFF_UP
	err = c.Change(unix.RTM_SETLINK, 0, body, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(k.netnsMark(name))))
	if err != nil {
		return fmt.Errorf("mark its loopback: %w", err)
	}
	return nil
}

// MountsApart returns ErrMountsApart where namespaces that are made here do not
// reach the host.
func (k *Kernel) MountsApart() error { return k.dir.MountsApart() }

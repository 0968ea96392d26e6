package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (s *session) observeShaper(key netstate.Key) (netstate.Object, error) {
	ns, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	q, err := ns.qdiscAt(l.Index, rtnl.RootQdisc)
	if err != nil || q == nil {
		return nil, err
	}
	if o, ours := q.Shaper(key.Netns, key.Link); ours {
		return o, nil
	}
	return nil, nil
}

// qdiscAt asks for the qdisc at one parent of a link, or nil.
func (ns *namespace) qdiscAt(index int32, parent uint32) (*rtnl.Qdisc, error) {
	c, err := ns.conn()
	if err != nil {
		return nil, err
	}
	q, err := c.GetQdisc(index, parent)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, ErrLinkNotFound
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	}
	return q, err
}

// qdiscs lists the root and the ingress qdiscs of all links.
func (ns *namespace) qdiscs() ([]rtnl.Qdisc, error) {
	list, err := dump(ns, unix.RTM_GETQDISC, &nl.TcMsg{}, rtnl.ParseQdisc)
	return slices.DeleteFunc(list, func(q rtnl.Qdisc) bool { return q.Parent != rtnl.RootQdisc && q.Parent != rtnl.IngressQdisc }), err
}

func (s *session) applyShaper(op plan.Op, o netstate.Shaper) error {
	end := netstate.End{Netns: o.Netns, Name: o.Link}
	err := putOrRemove(op, func() error { return s.shape(end, o) }, func() error { return s.unshape(end) })
	if err != nil {
		return fmt.Errorf("%s bandwidth limit of %s: %w", op, end, err)
	}
	return nil
}

// shape replaces the root qdisc of our link. Our own qdisc is changed in place, and
// keeps the packets that are queued in it.
func (s *session) shape(end netstate.End, o netstate.Shaper) error {
	ns, l, err := s.ourLink(end)
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.Index, Handle: rtnl.ShaperHandle, Parent: rtnl.RootQdisc}
	return ns.change(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, rtnl.Text(nl.TCA_KIND, "tbf"), rtnl.ShaperOptions(o))
}

// unshape leaves a foreign qdisc alone.
func (s *session) unshape(end netstate.End) error {
	ns, l, err := s.ourLink(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.Index, Handle: rtnl.ShaperHandle, Parent: rtnl.RootQdisc}
	err = ns.change(unix.RTM_DELQDISC, 0, body)
	// EINVAL: the one that is there has another handle.
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

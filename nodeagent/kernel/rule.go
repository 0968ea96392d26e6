package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (ns *namespace) rules() ([]rtnl.Rule, error) {
	return dump(ns, unix.RTM_GETRULE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}}, rtnl.ParseRule)
}

// Routing reads a namespace's foreign rules and routes, without the default routes of its
// main table. It fails with ErrNetnsNotFound.
func (k *Kernel) Routing(netns string) (netstate.Routing, error) {
	s := k.session()
	defer s.close()
	ns, err := s.namespace(netns)
	if err != nil {
		return netstate.Routing{}, err
	}
	links, err := ns.allLinks()
	if err != nil {
		return netstate.Routing{}, fmt.Errorf("list interfaces of %s: %w", netnsName(netns), err)
	}
	routing, _, err := ns.routing(links)
	if err != nil {
		return routing, fmt.Errorf("list rules and routes of %s: %w", netnsName(netns), err)
	}
	return routing, nil
}

// routing also returns the routes of all tables and kinds, IPv4 first.
func (ns *namespace) routing(links []*rtnl.Link) (out netstate.Routing, all []rtnl.Route, err error) {
	rules, err := ns.rules()
	if err != nil {
		return out, nil, err
	}
	main, other := foreignLinks(links), map[int32]*rtnl.Link{}
	for _, l := range links {
		other[l.Index] = l
	}
	tables := map[netstate.Family][]uint32{netstate.IPv4: {netstate.TableMain}, netstate.IPv6: {netstate.TableMain}}
	for _, r := range rules {
		if r.Kernels() || r.Protocol == netstate.RouteProtocol || r.Action != unix.FR_ACT_TO_TBL && r.Drops == "" {
			continue
		}
		out.Rules = append(out.Rules, r.RouteRule)
		if list := tables[r.Family]; r.Drops == "" && r.Table != netstate.TableLocal && !slices.Contains(list, r.Table) {
			tables[r.Family] = append(list, r.Table)
		}
	}
	slices.SortStableFunc(out.Rules, func(a, b netstate.RouteRule) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		routes, err := ns.everyRoute(listed{family: rtnl.FamilyNumber(f)})
		if err != nil {
			return out, nil, err
		}
		all = append(all, routes...)
		for _, t := range tables[f] {
			through := other
			if t == netstate.TableMain {
				through = main
			}
			for _, r := range routes {
				if r.Table != t || !r.Decides() || t == netstate.TableMain && r.Dst.Bits() == 0 {
					continue
				}
				if o, ok := r.Foreign(through); ok {
					out.Routes = append(out.Routes, o)
				}
			}
		}
	}
	return out, all, nil
}

// observeRule returns a rule without a table where several of our rules have one mark.
func (s *session) observeRule(key netstate.Key) (netstate.Object, error) {
	ns, err := s.namespace(key.Netns)
	if err != nil {
		return nil, err
	}
	rules, err := ns.rules()
	var found []netstate.Rule
	sound := true
	for _, r := range rules {
		if o, ok := r.Ours(); ok && o.Key() == key {
			found, sound = append(found, o), sound && r.Sound()
		}
	}
	switch {
	case len(found) == 0 || err != nil:
		return nil, err
	case len(found) > 1 || !sound:
		found[0].Table = 0
	}
	return found[0], nil
}

// applyRule removes each of our rules with the same mark, and adds the rule.
func (s *session) applyRule(op plan.Op, o netstate.Rule) error {
	ns, err := s.namespace("")
	if err != nil {
		return err
	}
	err = putOrRemove(op,
		func() error { return errors.Join(ns.removeRule(o), ns.addRule(o)) },
		func() error { return ns.removeRule(o) })
	if err != nil {
		return fmt.Errorf("%s rule %s: %w", op, o.Key().Name, err)
	}
	return nil
}

func (ns *namespace) addRule(o netstate.Rule) error {
	body := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(rtnl.FamilyNumber(o.Family)), Type: unix.FR_ACT_TO_TBL}}
	err := ns.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, rtnl.RuleAttributes(o, netstate.RulePriority)...)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
}

func (ns *namespace) removeRule(o netstate.Rule) error {
	rules, err := ns.rules()
	if err != nil {
		return err
	}
	for _, r := range rules {
		have, ok := r.Ours()
		if !ok || have.Key() != o.Key() {
			continue
		}
		body := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(rtnl.FamilyNumber(o.Family)), Type: r.Action}}
		if err := ns.change(unix.RTM_DELRULE, 0, body, rtnl.RuleAttributes(have, r.Priority)...); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

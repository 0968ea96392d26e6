package kernel

import (
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Observe returns the objects of the keys as the kernel has them. An object that is
// absent, alone or with its link or namespace, is absent from the set. Keys of the
// firewall are skipped. An object with a key in the error map is unknown: neither present
// nor absent. Primary is never set in observed links, since the kernel does not know it.
func (k *Kernel) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	s := k.session()
	defer s.close()
	o := observation{set: netstate.Set{}, errs: map[netstate.Key]error{}}
	groups, names := map[string][]netstate.Key{}, []string{}
	for _, key := range keys {
		if groups[key.Netns] == nil && key.Netns != "" {
			names = append(names, key.Netns)
		}
		groups[key.Netns] = append(groups[key.Netns], key)
	}
	// The host comes last: then each veth to a namespace has told its peer, and no
	// namespace is opened twice.
	for _, netns := range append(names, "") {
		s.observeIn(netns, groups[netns], o)
		s.trim()
	}
	return o.set, o.errs
}

// observeIn observes keys of one namespace.
func (s *session) observeIn(netns string, keys []netstate.Key, o observation) {
	var sysctls []netstate.Key
	for _, key := range keys {
		observe := observers[key.Kind]
		if isSysctl(key) && rtnl.IsSetting(key.Link, key.Name) {
			observe = (*session).observeSetting
		} else if isSysctl(key) {
			sysctls = append(sysctls, key)
		}
		if observe != nil {
			object, err := observe(s, key)
			o.add(key, object, err)
		}
	}
	if len(sysctls) > 0 {
		s.observeSysctls(netns, sysctls, o.add)
	}
}

var observers = map[netstate.Kind]func(*session, netstate.Key) (netstate.Object, error){
	netstate.KindNetns:    (*session).observeNetns,
	netstate.KindLink:     (*session).observeLink,
	netstate.KindShaper:   (*session).observeShaper,
	netstate.KindRedirect: (*session).observeRedirect,
	netstate.KindPort:     (*session).observePort,
	netstate.KindHairpin:  (*session).observeHairpin,
	netstate.KindAddress:  (*session).observeAddress,
	netstate.KindRoute:    (*session).observeRoute,
	netstate.KindRule:     (*session).observeRule,
}

type observation struct {
	set  netstate.Set
	errs map[netstate.Key]error
}

func (o observation) add(key netstate.Key, object netstate.Object, err error) {
	switch {
	case missing(err):
	case err != nil:
		o.errs[key] = fmt.Errorf("observe %s: %w", key, err)
	case object != nil:
		o.set.Add(object)
	}
}

// missing reports whether an error means that there is nothing there.
func missing(err error) bool {
	return errors.Is(err, ErrNetnsNotFound) || errors.Is(err, ErrLinkNotFound)
}

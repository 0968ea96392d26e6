package kernel

import (
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Observe returns the objects of the keys as the kernel has them; what is
// absent, with its link or namespace or alone, is absent from the set. Keys of
// the firewall are skipped. A key in the error map is neither present nor
// absent: it is unknown. Primary is never set in observed links, since the
// kernel does not know it.
func (k *Kernel) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	s := k.session()
	defer s.close()
	o := observation{set: netstate.Set{}, errs: map[netstate.Key]error{}}
	sysctls := map[string][]netstate.Key{}
	for _, key := range keys {
		switch key.Kind {
		case netstate.KindLink:
			// All links first: then most peers are known when asked for.
			_, _, _ = s.link(netstate.End{Netns: key.Netns, Name: key.Link})
			s.trim()
		case netstate.KindSysctl, netstate.KindSysctlNode:
			sysctls[key.Netns] = append(sysctls[key.Netns], key)
		}
	}
	for _, key := range keys {
		if observe := observers[key.Kind]; observe != nil {
			object, err := observe(s, key)
			o.add(key, object, err)
			s.trim()
		}
	}
	for netns, keys := range sysctls {
		s.observeSysctls(netns, keys, o.add)
	}
	return o.set, o.errs
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

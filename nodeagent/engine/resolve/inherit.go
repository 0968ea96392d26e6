package resolve

import "github.com/patchbay-dev/patchbay/nodeagent/netstate"

// inherit has the owners of a compiled batch hold the keys that ended processes kept, in
// place of the zero owner, which holds objects whose mark names no owner. Before compiling, a
// held key would prove a claim that its owner may have lost.
func (rv *Resolver) inherit(batch map[netstate.Owner]bool) {
	unnamed := rv.Ledger.Account(netstate.Owner{})
	for o := range batch {
		u := rv.Resource(o)
		for _, k := range u.Inherited {
			u.Hold(k)
			unnamed.Drop(k)
		}
		u.Inherited = nil
	}
}

// Learn compiles a batch, takes the objects for objects of an ended process that kept no
// keys, and returns the keys.
func (rv *Resolver) Learn(batch map[netstate.Owner]bool) map[netstate.Owner][]netstate.Key {
	keys := map[netstate.Owner][]netstate.Key{}
	rv.compileKinds(batch)
	for o := range batch {
		u := rv.Resource(o)
		if u.In == nil {
			continue
		}
		u.Inherited = append(u.Inherited, u.Wanted().Keys()...)
		for _, p := range recordedPorts(u.In.Publish) {
			u.Inherited = append(u.Inherited, p.Key())
		}
		keys[o], u.adopted, u.joined = u.Inherited, false, nil
		// It claimed only to be compiled.
		rv.claims.Settle(o, nil, false)
	}
	return keys
}

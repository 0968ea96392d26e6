package firewall

import (
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
)

// choose takes nftables where it works, else iptables.
func choose(opts Options) (*Firewall, error) {
	nft, err := open(opts, nftables.New)
	if err == nil {
		return nft, nil
	}
	// A program that hangs is no reason to write another firewall.
	if hangs := (*program.NoAnswer)(nil); errors.As(err, &hangs) {
		return nil, err
	}
	ipt, other := openIPTables("", opts)
	if other == nil {
		other = ipt.dialect.(*iptables.Driver).Usable()
	}
	if other != nil {
		return nil, fmt.Errorf("this node has no firewall to use: %s: %w; %s: %w", KindNFTables, err, KindIPTables, other)
	}
	return ipt, nil
}

// InUse returns the backend that holds most of the source's objects, however it was
// chosen; where none holds any, the backend of the kind that was used last, else of auto.
// What it holds is read, if it could be.
func InUse(last string, opts Options) (*Firewall, error) {
	best, err := New(last, opts)
	if err != nil {
		best, err = New(KindAuto, opts)
	}
	if err != nil {
		return nil, err
	}
	most := best.holds()
	for _, o := range best.others() {
		if n := o.holds(); n > most {
			best, most = o, n
		}
	}
	return best, nil
}

// holds reads how many objects the source has; the next Inventory does not read again.
func (f *Firewall) holds() int {
	if f.load() != nil {
		return 0
	}
	f.fresh = true
	return len(f.Objects())
}

// Retire removes the source's objects from the node's other firewalls, which were in use
// before: once this one holds all that is wanted. Connections stay. Retire writes nothing
// where there is nothing.
func (f *Firewall) Retire() error {
	return f.run(false, func() error {
		var errs []error
		for _, o := range f.others() {
			errs = append(errs, o.retire())
		}
		return errors.Join(errs...)
	})
}

// CleanAll removes all our objects from every firewall of the node, whatever
// its source.
func (f *Firewall) CleanAll() error {
	errs := []error{f.Clean()}
	for _, o := range f.others() {
		errs = append(errs, o.Clean())
	}
	return errors.Join(errs...)
}

// others finds the node's firewalls beside this one that may hold something, as far as
// this one saw when it was read: programs run only where they have to.
func (f *Firewall) others() []*Firewall {
	var out []*Firewall
	add := func(v iptsave.Variant) {
		if o, err := openIPTables(v, f.opts); err == nil && o.dialect.(*iptables.Driver).Legacy() == (v == iptsave.Legacy) {
			out = append(out, o)
		}
	}
	switch d := f.dialect.(type) {
	case *nftables.Driver:
		if d.Beside() {
			add(iptsave.NFT)
		}
		if foreign.LegacyTables() {
			add(iptsave.Legacy)
		}
	case *iptables.Driver:
		tables, chains := d.Beside()
		if n, err := open(f.opts, nftables.New); err == nil && tables {
			out = append(out, n)
		}
		if d.Legacy() && chains {
			add(iptsave.NFT)
		}
		if !d.Legacy() && foreign.LegacyTables() {
			add(iptsave.Legacy)
		}
	}
	return out
}

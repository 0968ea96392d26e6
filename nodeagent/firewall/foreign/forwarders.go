// Package foreign is about the firewalls of other programs: which of their chains drop forwarded
// packets, and our rules that lead packets through the FORWARD of iptables.
package foreign

import (
	"context"
	"reflect"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// ForwardFamilies are whose packets chains of a family see.
var ForwardFamilies = map[string][]netstate.Family{
	string(knftables.IPv4Family): {netstate.IPv4},
	string(knftables.IPv6Family): {netstate.IPv6},
	string(knftables.InetFamily): {netstate.IPv4, netstate.IPv6},
}

// forwards reports whether the chain is another program's, and forwarded packets pass it.
func forwards(c nfnl.Chain) bool {
	return c.Hook == "forward" && c.Table != nfnl.OwnTable && ForwardFamilies[c.Family] != nil
}

// elsewhere reports whether the chain is another program's, and packets pass it at another
// hook. A chain that translates drops nothing as a rule, and may have thousands of rules.
func elsewhere(c nfnl.Chain) bool {
	return c.Hook != "" && !forwards(c) && c.Table != nfnl.OwnTable && c.Family != "" && c.Kind != "nat"
}

// IsIPTables reports whether the chain is iptables' own FORWARD.
func IsIPTables(c nfnl.Chain) bool {
	return c.Table == filterTable && c.Name == iptsave.Forward && len(ForwardFamilies[c.Family]) == 1
}

// forwarding is what nft tells of how other programs treat forwarded packets.
type forwarding struct {
	Blockers []netstate.Blocker
	// at are the chains that the blockers are.
	at []nfnl.Chain
	// Entered are the chains of iptables' table filter that all packets come to.
	Entered map[netstate.Family]map[string]bool
}

// Forwarders find the chains that drop forwarded packets.
type Forwarders struct {
	mu sync.Mutex
	// nft is the program that told last; empty where last does not count any more.
	nft  string
	last forwarding
	// watched are the chains and tables of other programs whose changes matter.
	watched map[watchedChain]bool
}

// watchedChain is a chain, or a table where it has no name.
type watchedChain struct{ family, table, chain string }

// List finds the chains that drop forwarded packets, among all chains that nft lists;
// openable says in which of them openings can be made.
func (w *Forwarders) List(ctx context.Context, nft string, openable func(nfnl.Chain) bool) (forwarding, []nfnl.Chain, error) {
	is, chains, watched, err := readForwarding(ctx, nft)
	if err != nil {
		return is, nil, err
	}
	w.mu.Lock()
	w.nft, w.last, w.watched = nft, is, watched
	w.mu.Unlock()
	is.Blockers = append([]netstate.Blocker(nil), is.Blockers...)
	for i := range is.Blockers {
		if b := &is.Blockers[i]; openable(is.at[i]) {
			b.Openable, b.Accepts = true, nil
		}
	}
	return is, chains, nil
}

// Changed reports whether list would tell of something else than it last did. A
// service proxy may write its chains all the time, always the same.
func (w *Forwarders) Changed(ctx context.Context) bool {
	w.mu.Lock()
	nft, last := w.nft, w.last
	w.mu.Unlock()
	if nft == "" {
		return true
	}
	is, _, watched, err := readForwarding(ctx, nft)
	if err != nil || !reflect.DeepEqual(is, last) {
		return true
	}
	w.mu.Lock()
	w.watched = watched
	w.mu.Unlock()
	return false
}

// Forget makes the next Changed report true. It is for a change of our rules that the
// last List does not tell of: a foreign change that undoes ours would look like no change.
func (w *Forwarders) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nft = ""
}

// readForwarding follows forwarded packets through the chains of other programs. What
// vanishes while it is read is read again.
func readForwarding(ctx context.Context, nft string) (is forwarding, chains []nfnl.Chain, watched map[watchedChain]bool, err error) {
	for range nfnl.MaxTries {
		chains, err = nfnl.Chains()
		if err != nil {
			return is, nil, nil, err
		}
		r := newForwardReader(ctx, nft, chains)
		if is = r.all(chains); r.err == nil {
			return is, chains, r.watched, nil
		}
		err = r.err
	}
	return is, nil, nil, err
}

// Matters reports whether an event may change which chains drop forwarded packets: a base
// chain at that hook, or one that is watched.
func (w *Forwarders) Matters(kind uint16, body []byte) bool {
	family, table, attrs := nfnl.TableOf(kind, body)
	at := watchedChain{family: nfnl.FamilyNames[family], table: table}
	if at.family == "" {
		return false
	}
	switch kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		c := nfnl.ParseChain(family, attrs)
		if forwards(c) || elsewhere(c) {
			return true
		}
		at.chain = c.Name
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		at.chain = nfnl.NameIn(attrs, unix.NFTA_RULE_CHAIN)
	default:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watched[at]
}

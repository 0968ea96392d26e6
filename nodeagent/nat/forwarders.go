package nat

import (
	"context"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// forwardFamilies are whose packets chains of a family see.
var forwardFamilies = map[string][]netstate.Family{
	string(knftables.IPv4Family): {netstate.IPv4},
	string(knftables.IPv6Family): {netstate.IPv6},
	string(knftables.InetFamily): {netstate.IPv4, netstate.IPv6},
}

// forwards reports whether forwarded packets pass a chain of somebody else's.
func (c otherChain) forwards() bool {
	return c.Hook == "forward" && c.Table != tableName && forwardFamilies[c.Family] != nil
}

// elsewhere reports whether packets pass a chain of somebody else's at another hook.
// What translates drops nothing as a rule, and may have thousands of rules.
func (c otherChain) elsewhere() bool {
	return c.Hook != "" && !c.forwards() && c.Table != tableName && c.Family != "" && c.kind != "nat"
}

// iptables reports whether the chain is iptables' own FORWARD.
func (c otherChain) iptables() bool {
	return c.Table == filterTable && c.Name == chainIptables && len(forwardFamilies[c.Family]) == 1
}

// forwarding is what nft tells of how others treat forwarded packets.
type forwarding struct {
	blockers []netstate.Blocker
	// at are the chains that the blockers are.
	at []otherChain
	// entered are the chains of iptables' table filter that all packets come to.
	entered map[netstate.Family]map[string]bool
}

// forwarders tell of who drops forwarded packets.
type forwarders struct {
	mu   sync.Mutex
	nft  string
	last forwarding
	// watched are the chains and tables of others whose changes matter.
	watched map[watchedChain]bool
}

// watchedChain is a chain, or a table where it has no name.
type watchedChain struct{ family, table, chain string }

// list reads who drops forwarded packets, of all chains that nft tells of;
// openable says in which of them openings can be made.
func (w *forwarders) list(ctx context.Context, nft string, openable func(otherChain) bool) (forwarding, []otherChain, error) {
	is, chains, watched, err := readForwarding(ctx, nft)
	if err != nil {
		return is, nil, err
	}
	w.mu.Lock()
	w.nft, w.last, w.watched = nft, is, watched
	w.mu.Unlock()
	is.blockers = append([]netstate.Blocker(nil), is.blockers...)
	for i := range is.blockers {
		if b := &is.blockers[i]; openable(is.at[i]) {
			b.Openable, b.Accepts = true, nil
		}
	}
	return is, chains, nil
}

// changed reports whether list would tell of something else than it last did. A
// service proxy may write its chains all the time, always the same.
func (w *forwarders) changed(ctx context.Context) bool {
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

// readForwarding follows forwarded packets through the chains of others. What
// vanishes while it is read is read again.
func readForwarding(ctx context.Context, nft string) (is forwarding, chains []otherChain, watched map[watchedChain]bool, err error) {
	for range maxListings {
		chains, err = listChains()
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

// matters reports whether an event may change who drops forwarded packets: a base
// chain at that hook, or one that is watched.
func (w *forwarders) matters(kind uint16, body []byte) bool {
	family, table, attrs := tableOf(kind, body)
	at := watchedChain{family: familyNames[family], table: table}
	if at.family == "" {
		return false
	}
	switch kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		c := parseChain(family, attrs)
		if c.forwards() || c.elsewhere() {
			return true
		}
		at.chain = c.Name
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		at.chain = nameIn(attrs, unix.NFTA_RULE_CHAIN)
	default:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watched[at]
}

// nameIn is an attribute that is a name.
func nameIn(attrs []byte, of uint16) string {
	for t, v := range attributes(attrs) {
		if t == of {
			return text(v)
		}
	}
	return ""
}

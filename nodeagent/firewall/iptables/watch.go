package iptables

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

func (b *Driver) Watch(ctx context.Context, fn func()) error {
	if !b.legacy {
		foreign.WatchLegacy(ctx, fn)
		return nfnl.Watch(ctx, &b.gens, nfnl.Watched{Look: b.Look, Changed: b.forwards.Changed}, fn)
	}
	if _, err := b.peek(ctx); err != nil {
		return err
	}
	go foreign.Every(ctx, pollPause, func() bool {
		// What cannot be read is as good as changed: Load says why.
		changed, err := b.peek(ctx)
		return changed || err != nil
	}, fn)
	return nil
}

// Look looks for events about our chains, and about chains of nftables that may
// drop forwarded packets.
func (b *Driver) Look(kind uint16, body []byte) (touched, forward bool) {
	if touched, _ := AboutIPTables(kind, body); touched {
		return true, false
	}
	return false, b.forwards.Matters(kind, body)
}

// AboutIPTables reports whether an event of nftables is about one of our chains, or
// about the rules of a chain that jumps to our chains.
func AboutIPTables(kind uint16, body []byte) (touched, forward bool) {
	family, table, attrs := nfnl.TableOf(kind, body)
	if family != unix.NFPROTO_IPV4 && family != unix.NFPROTO_IPV6 || hooks[table] == nil {
		return false, false
	}
	named := uint16(unix.NFTA_CHAIN_NAME)
	switch kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return true, false
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		named = unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
	default:
		return false, false
	}
	for t, v := range nfnl.Attributes(attrs) {
		if chain := strings.TrimRight(string(v), "\x00"); t == named {
			return strings.HasPrefix(chain, iptsave.Prefix) || hooked(table, chain), false
		}
	}
	return false, false
}

// pollPause is the time between two looks at legacy iptables, which has no
// events. Each look runs iptables-save for both families: some 5 ms of CPU time
// on a node with few rules, and 1 ms more for every 500.
const pollPause = 800 * time.Millisecond

// peek reports, between changes of our own, whether what concerns us differs from what it
// was at the last look.
func (b *Driver) peek(ctx context.Context) (bool, error) {
	b.gens.Mu.Lock()
	defer b.gens.Mu.Unlock()
	var all []byte
	for _, six := range b.families {
		text, err := b.save(ctx, six)
		if err != nil {
			return false, err
		}
		table := ""
		for l := range bytes.Lines(text) {
			if name, ok := bytes.CutPrefix(l, []byte("*")); ok {
				table = strings.TrimSpace(string(name))
			}
			if concerns(table, string(l)) {
				all = append(all, l...)
			}
		}
		all = fmt.Append(all, foreign.Blockers(iptsave.Parse(six, text)))
	}
	before := b.seen
	b.seen = fmt.Sprintf("%x", sha256.Sum256(all))
	return before != "" && before != b.seen, nil
}

// concerns reports whether a line of iptables-save for a table is about us: our
// chains, what leads there, rules where our jump must be first, and the policy of
// FORWARD.
func concerns(table, l string) bool {
	first := slices.ContainsFunc(hooks[table], func(h hook) bool { return h.first && strings.HasPrefix(l, "-A "+h.chain+" ") })
	return first || strings.HasPrefix(l, "*") || strings.Contains(l, iptsave.Prefix) || strings.HasPrefix(l, ":FORWARD DROP")
}

// allBlockers are the blockers that iptables lists, and chains of nftables beside them
// where the node has nft.
func (b *Driver) allBlockers(ctx context.Context, told []netstate.Blocker) []netstate.Blocker {
	b.beside, b.besideIP = false, true
	path, err := exec.LookPath("nft")
	if err != nil {
		return told
	}
	is, chains, err := b.forwards.List(ctx, path, func(c nfnl.Chain) bool { return !b.legacy && foreign.IsIPTables(c) })
	if err != nil {
		return told
	}
	b.beside = slices.ContainsFunc(chains, func(c nfnl.Chain) bool { return c.Table == nfnl.OwnTable || c.Name == foreign.AcceptChain })
	b.besideIP = slices.ContainsFunc(chains, func(c nfnl.Chain) bool { return strings.HasPrefix(c.Name, iptsave.Prefix) })
	if b.legacy {
		return append(told, is.Blockers...)
	}
	return is.Blockers
}

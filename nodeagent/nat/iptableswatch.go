package nat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func (b *iptables) Watch(ctx context.Context, fn func()) error {
	if !b.legacy {
		watchLegacy(ctx, fn)
		return watchEvents(ctx, &b.gens, watching{b.look, b.forwards.changed}, fn)
	}
	if _, err := b.peek(ctx); err != nil {
		return err
	}
	go every(ctx, pollPause, func() bool {
		// What cannot be read is as good as changed: Load says why.
		changed, err := b.peek(ctx)
		return changed || err != nil
	}, fn)
	return nil
}

// look looks for events about chains of ours, and about chains of nftables that may
// drop forwarded packets.
func (b *iptables) look(kind uint16, body []byte) (touched, forward bool) {
	if touched, _ := aboutIPTables(kind, body); touched {
		return true, false
	}
	return false, b.forwards.matters(kind, body)
}

// aboutIPTables reports whether an event of nftables is about a chain of ours, or
// about the rules of a chain that jumps to ours.
func aboutIPTables(kind uint16, body []byte) (touched, forward bool) {
	family, table, attrs := tableOf(kind, body)
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
	for t, v := range attributes(attrs) {
		if chain := strings.TrimRight(string(v), "\x00"); t == named {
			return strings.HasPrefix(chain, chainPrefix) || hooked(table, chain), false
		}
	}
	return false, false
}

// pollPause is the time between two looks at legacy iptables, which has no
// events. Each look runs iptables-save for both families: some 5 ms of CPU time
// on a node with few rules, and 1 ms more for every 500.
const pollPause = 800 * time.Millisecond

// every looks at intervals, and calls fn when there is news, until ctx ends.
func every(ctx context.Context, pause time.Duration, look func() bool, fn func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if look() && ctx.Err() == nil {
			fn()
		}
	}
}

// peek looks between changes of our own.
func (b *iptables) peek(ctx context.Context) (bool, error) {
	b.gens.mu.Lock()
	defer b.gens.mu.Unlock()
	return b.compare(ctx)
}

// compare reports whether what concerns us differs from what it last was. Changes of
// our own compare before and after, so that what differs before them is told of.
func (b *iptables) compare(ctx context.Context) (bool, error) {
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
		all = fmt.Append(all, parseSave(six, text).blockers())
	}
	before := b.seen
	b.seen = fmt.Sprintf("%x", sha256.Sum256(all))
	return before != "" && before != b.seen, nil
}

// concerns reports whether a line of iptables-save for a table is about us: our
// chains, what leads there, what stands where ours must be first, and the policy of
// FORWARD.
func concerns(table, l string) bool {
	first := slices.ContainsFunc(hooks[table], func(h hook) bool { return h.first && strings.HasPrefix(l, "-A "+h.chain+" ") })
	return first || strings.HasPrefix(l, "*") || strings.Contains(l, chainPrefix) || strings.HasPrefix(l, ":FORWARD DROP")
}

// allBlockers are those that iptables tells of, and chains of nftables beside them
// where the node has nft.
func (b *iptables) allBlockers(ctx context.Context, told []netstate.Blocker) []netstate.Blocker {
	b.beside, b.besideIP = false, true
	path, err := exec.LookPath("nft")
	if err != nil {
		return told
	}
	is, chains, err := b.forwards.list(ctx, path, func(c otherChain) bool { return !b.legacy && c.iptables() })
	if err != nil {
		return told
	}
	b.beside = slices.ContainsFunc(chains, func(c otherChain) bool { return c.Table == tableName || c.Name == chainOpening })
	b.besideIP = slices.ContainsFunc(chains, func(c otherChain) bool { return strings.HasPrefix(c.Name, chainPrefix) })
	if b.legacy {
		return append(told, is.blockers...)
	}
	return is.blockers
}

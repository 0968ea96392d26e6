package nat

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"sync/atomic"

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

// otherChain is a chain as nft lists it.
type otherChain struct{ Family, Table, Name, Hook, Policy string }

func (c otherChain) String() string {
	return "chain " + c.Name + " of table " + c.Family + " " + c.Table
}

func (c otherChain) blocks() bool {
	return c.Hook == "forward" && c.Policy == "drop" && c.Table != tableName && forwardFamilies[c.Family] != nil
}

// iptables reports whether the chain is iptables' own FORWARD.
func (c otherChain) iptables() bool {
	return c.Table == filterTable && c.Name == chainIptables && len(forwardFamilies[c.Family]) == 1
}

// forwarders tell of who drops forwarded packets.
type forwarders struct{ watched atomic.Pointer[watched] }

// list reads who drops forwarded packets by policy, of all chains that nft tells
// of; openable says in which of them openings can be made.
func (w *forwarders) list(ctx context.Context, nft string, openable func(otherChain) bool) ([]netstate.Blocker, []otherChain, error) {
	out, err := exec.CommandContext(ctx, nft, "--json", "list", "chains").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list chains: %w", err)
	}
	chains, err := parseChains(out)
	if err != nil {
		return nil, nil, err
	}
	var blockers []netstate.Blocker
	tables := watched{}
	for _, c := range chains {
		if !c.blocks() {
			continue
		}
		tables[c.Family+" "+c.Table] = true
		blocker := netstate.Blocker{Name: c.String(), Families: forwardFamilies[c.Family], Openable: openable(c)}
		if !blocker.Openable {
			if blocker.Accepts, err = accepts(ctx, nft, c); err != nil {
				return nil, nil, err
			}
		}
		blockers = append(blockers, blocker)
	}
	w.watched.Store(&tables)
	return blockers, chains, nil
}

// watched are the tables of others whose changes matter, by family and name.
type watched map[string]bool

// matters reports whether an event changes who drops forwarded packets: a base
// chain at that hook, or anything in a table that has one or an opening of ours.
func (w *forwarders) matters(kind uint16, body []byte) bool {
	family, table, attrs := tableOf(kind, body)
	kind &= 0xff
	name := map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}[family]
	if known := w.watched.Load(); name != "" && known != nil && (*known)[name+" "+table] {
		return kind != unix.NFT_MSG_NEWSETELEM && kind != unix.NFT_MSG_DELSETELEM
	}
	return name != "" && kind == unix.NFT_MSG_NEWCHAIN && hooksForward(attrs)
}

func hooksForward(attrs []byte) bool {
	for t, v := range attributes(attrs) {
		if t != unix.NFTA_CHAIN_HOOK {
			continue
		}
		for t, v := range attributes(v) {
			if t == unix.NFTA_HOOK_HOOKNUM && len(v) == 4 {
				return binary.BigEndian.Uint32(v) == unix.NF_INET_FORWARD
			}
		}
	}
	return false
}

func parseChains(text []byte) ([]otherChain, error) {
	var l struct {
		Objects []struct {
			Chain *otherChain `json:"chain"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("read listing of chains: %w", err)
	}
	var out []otherChain
	for _, o := range l.Objects {
		if o.Chain != nil {
			out = append(out, *o.Chain)
		}
	}
	return out, nil
}

// accepts returns the interfaces that a chain's own rules accept. What they say
// in further chains is not looked at.
func accepts(ctx context.Context, nft string, c otherChain) ([]string, error) {
	out, err := exec.CommandContext(ctx, nft, "--json", "list", "chain", c.Family, c.Table, c.Name).Output()
	if err != nil {
		return nil, fmt.Errorf("list chain %s %s %s: %w", c.Family, c.Table, c.Name, err)
	}
	return parseAccepts(out)
}

func parseAccepts(text []byte) ([]string, error) {
	var l struct {
		Objects []struct {
			Rule *struct {
				Expr []map[string]json.RawMessage `json:"expr"`
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("read listing of a chain: %w", err)
	}
	var out []string
	for _, o := range l.Objects {
		if o.Rule != nil {
			out = append(out, acceptedBy(o.Rule.Expr)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// acceptedBy returns the interfaces that one rule accepts: those that it compares
// with, or every one where it has no condition.
func acceptedBy(expr []map[string]json.RawMessage) (links []string) {
	accepts, conditions := false, false
	for _, e := range expr {
		if _, ok := e["accept"]; ok {
			accepts = true
		}
		if raw, ok := e["match"]; ok {
			conditions = true
			links = append(links, matchedLinks(raw)...)
		}
	}
	switch {
	case !accepts:
		return nil
	case !conditions:
		return []string{"*"}
	}
	return links
}

// matchedLinks are the interfaces of a comparison with iifname or oifname.
func matchedLinks(raw json.RawMessage) []string {
	var m struct {
		Op    string
		Left  struct{ Meta *struct{ Key string } }
		Right json.RawMessage
	}
	if json.Unmarshal(raw, &m) != nil || m.Left.Meta == nil || m.Op == "!=" || !slices.Contains([]string{"iifname", "oifname", "iif", "oif"}, m.Left.Meta.Key) {
		return nil
	}
	var one string
	if json.Unmarshal(m.Right, &one) == nil {
		return []string{one}
	}
	var set struct{ Set []string }
	if json.Unmarshal(m.Right, &set) == nil {
		return set.Set
	}
	return nil
}

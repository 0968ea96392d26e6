package nat

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// What of others drops forwarded packets, and the openings in it. iptables keeps
// its chains in tables of nftables' own, where Docker sets the policy of FORWARD
// to DROP and leaves DOCKER-USER to others.
const (
	filterTable   = "filter"
	chainIptables = "FORWARD"
	chainDocker   = "DOCKER-USER"
	chainOpening  = "PATCHBAY-FORWARD"
)

// forwardFamilies are whose packets chains of a family see.
var forwardFamilies = map[string][]netstate.Family{
	string(knftables.IPv4Family): {netstate.IPv4},
	string(knftables.IPv6Family): {netstate.IPv6},
	string(knftables.InetFamily): {netstate.IPv4, netstate.IPv6},
}

// otherChain is a chain as nft lists it.
type otherChain struct{ Family, Table, Name, Hook, Policy string }

func (c otherChain) blocks() bool {
	return c.Hook == "forward" && c.Policy == "drop" && c.Table != tableName && forwardFamilies[c.Family] != nil
}

// iptables reports whether the chain is iptables' own FORWARD.
func (c otherChain) iptables() bool {
	return c.Table == filterTable && c.Name == chainIptables && len(forwardFamilies[c.Family]) == 1
}

// loadForward reads who drops forwarded packets, and what is open there.
func (b *nftables) loadForward(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, b.path, "--json", "list", "chains").Output()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	chains, err := parseChains(out)
	if err != nil {
		return err
	}
	b.blockers = nil
	tables := watched{}
	for _, c := range chains {
		if !c.blocks() {
			continue
		}
		tables[c.Family+" "+c.Table] = true
		blocker := netstate.Blocker{Name: fmt.Sprintf("chain %s of table %s %s", c.Name, c.Family, c.Table), Families: forwardFamilies[c.Family]}
		if blocker.Openable = c.iptables() && b.openings.program(blocker.Families[0]) != nil; !blocker.Openable {
			if blocker.Accepts, err = b.accepts(ctx, c); err != nil {
				return err
			}
		}
		b.blockers = append(b.blockers, blocker)
	}
	b.watched.Store(&tables)
	return b.openings.load(chains)
}

// watched are the tables of others whose changes matter, by family and name.
type watched map[string]bool

// matters reports whether an event changes who drops forwarded packets: a base
// chain at that hook, or anything in a table that has one or an opening of ours.
func (b *nftables) matters(kind uint16, family byte, table string, body []byte) bool {
	name := map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}[family]
	if w := b.watched.Load(); name != "" && w != nil && (*w)[name+" "+table] {
		return kind != unix.NFT_MSG_NEWSETELEM && kind != unix.NFT_MSG_DELSETELEM
	}
	return name != "" && kind == unix.NFT_MSG_NEWCHAIN && hooksForward(body)
}

func hooksForward(body []byte) bool {
	for t, v := range attributes(body) {
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
func (b *nftables) accepts(ctx context.Context, c otherChain) ([]string, error) {
	out, err := exec.CommandContext(ctx, b.path, "--json", "list", "chain", c.Family, c.Table, c.Name).Output()
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

// openings are the rules of ours in iptables' FORWARD.
type openings struct {
	programs map[netstate.Family]*iptables.IPTables
	source   netstate.Source
	// rules are how many of its two rules each opening of our source has, and
	// others how many rules there are of other sources.
	rules  map[netstate.Key]int
	others map[netstate.Family]int
	// jumps says in which families packets come to them.
	jumps map[netstate.Family]bool
}

// program is iptables of a family; nil where there is none.
func (o *openings) program(f netstate.Family) *iptables.IPTables {
	if p, known := o.programs[f]; known {
		return p
	}
	proto, path := iptables.ProtocolIPv4, "iptables-nft"
	if f == netstate.IPv6 {
		proto, path = iptables.ProtocolIPv6, "ip6tables-nft"
	}
	var p *iptables.IPTables
	if found, err := exec.LookPath(path); err == nil {
		p, _ = iptables.New(iptables.IPFamily(proto), iptables.Path(found), iptables.Timeout(5))
	}
	if o.programs == nil {
		o.programs = map[netstate.Family]*iptables.IPTables{}
	}
	o.programs[f] = p
	return p
}

// load reads our rules, where there is a chain of ours.
func (o *openings) load(chains []otherChain) error {
	o.rules, o.jumps, o.others = map[netstate.Key]int{}, map[netstate.Family]bool{}, map[netstate.Family]int{}
	for f, family := range map[netstate.Family]string{netstate.IPv4: "ip", netstate.IPv6: "ip6"} {
		has := func(name string) bool {
			return slices.ContainsFunc(chains, func(c otherChain) bool { return c.Family == family && c.Table == filterTable && c.Name == name })
		}
		if p := o.program(f); p != nil && has(chainOpening) {
			if err := o.read(p, f, entrance(has(chainDocker))); err != nil {
				return err
			}
		}
	}
	return nil
}

// entrance is the chain that leads to ours.
func entrance(docker bool) string {
	if docker {
		return chainDocker
	}
	return chainIptables
}

func (o *openings) read(p *iptables.IPTables, f netstate.Family, from string) error {
	lines, err := p.List(filterTable, chainOpening)
	if err != nil {
		return fmt.Errorf("list chain %s: %w", chainOpening, err)
	}
	for _, line := range lines {
		words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
		i := slices.IndexFunc(words, func(w string) bool { return w == "-i" || w == "-o" })
		switch {
		case i < 0 || i+1 >= len(words):
		case slices.Contains(words, o.mark()):
			o.rules[netstate.Opening{Family: f, Link: words[i+1]}.Key()]++
		default:
			o.others[f]++
		}
	}
	o.jumps[f], err = p.Exists(filterTable, from, jump...)
	if err != nil {
		return fmt.Errorf("look for the jump to %s: %w", chainOpening, err)
	}
	return nil
}

// mark is the comment of our rules.
func (o *openings) mark() string { return "patchbay:" + string(o.source) }

var jump = []string{"-m", "comment", "--comment", "patchbay", "-j", chainOpening}

func opening(k netstate.Key) netstate.Opening {
	return netstate.Opening{Family: netstate.Family(k.Name), Link: k.Link}
}

// whole returns the opening of a key if both its rules are there and lead
// somewhere.
func (o *openings) whole(k netstate.Key) (netstate.Opening, bool) {
	is := opening(k)
	return is, k.Kind == netstate.KindOpening && o.rules[k] == 2 && o.jumps[is.Family]
}

// open carries out steps of openings, each iptables call a transaction of ours.
func (b *nftables) open(steps []plan.Step) error {
	var errs []error
	for _, s := range steps {
		is := opening(s.Key)
		p := b.openings.program(is.Family)
		if p == nil {
			errs = append(errs, fmt.Errorf("%s %s: there is no iptables", s.Op, s.Key))
			continue
		}
		var err error
		if s.Op == plan.Delete {
			err = b.shut(p, is)
		} else {
			err = b.openOne(p, is)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.Op, s.Key, err))
		}
	}
	return errors.Join(errs...)
}

func (b *nftables) openOne(p *iptables.IPTables, o netstate.Opening) error {
	err := b.gens.own(func() error {
		if yes, err := p.ChainExists(filterTable, chainOpening); err != nil || yes {
			return err
		}
		return p.NewChain(filterTable, chainOpening)
	})
	for _, rule := range b.openings.rulesOf(o) {
		if err == nil {
			err = b.gens.own(func() error { return p.AppendUnique(filterTable, chainOpening, rule...) })
		}
	}
	if err != nil {
		return err
	}
	docker, err := p.ChainExists(filterTable, chainDocker)
	if err != nil {
		return err
	}
	err = b.gens.own(func() error { return p.InsertUnique(filterTable, entrance(docker), 1, jump...) })
	if err == nil {
		b.openings.rules[o.Key()], b.openings.jumps[o.Family] = 2, true
		b.count.Add(1)
		b.opts.Step()
	}
	return err
}

func (o *openings) rulesOf(is netstate.Opening) [][]string {
	tail := []string{"-m", "comment", "--comment", o.mark(), "-j", "ACCEPT"}
	return [][]string{append([]string{"-i", is.Link}, tail...), append([]string{"-o", is.Link}, tail...)}
}

// shut removes an opening, and with the last one of a family the chain.
func (b *nftables) shut(p *iptables.IPTables, o netstate.Opening) error {
	for _, rule := range b.openings.rulesOf(o) {
		if err := b.gens.own(func() error { return p.DeleteIfExists(filterTable, chainOpening, rule...) }); err != nil {
			return err
		}
	}
	delete(b.openings.rules, o.Key())
	b.count.Add(1)
	b.opts.Step()
	for k := range b.openings.rules {
		if k.Name == string(o.Family) {
			return nil
		}
	}
	if b.openings.others[o.Family] > 0 {
		return nil
	}
	delete(b.openings.jumps, o.Family)
	return b.removeChain(p)
}

func (b *nftables) removeChain(p *iptables.IPTables) error {
	for _, from := range []string{chainIptables, chainDocker} {
		yes, err := p.ChainExists(filterTable, from)
		if err == nil && yes {
			err = b.gens.own(func() error { return p.DeleteIfExists(filterTable, from, jump...) })
		}
		if err != nil {
			return err
		}
	}
	return b.gens.own(func() error { return p.ClearAndDeleteChain(filterTable, chainOpening) })
}

// closeAll removes all openings, whatever their source.
func (b *nftables) closeAll() error {
	for k := range b.openings.rules {
		o := opening(k)
		if err := b.shut(b.openings.program(o.Family), o); err != nil {
			return fmt.Errorf("remove %s: %w", k, err)
		}
	}
	return nil
}

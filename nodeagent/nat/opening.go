package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// The openings in iptables' chains, which are in tables of nftables' own: Docker
// sets the policy of FORWARD to DROP there and leaves DOCKER-USER to others. Their
// chain does not have the prefix of the Backend that is iptables, which makes
// openings otherwise and mends what has it.
const (
	filterTable   = "filter"
	chainIptables = "FORWARD"
	chainDocker   = "DOCKER-USER"
	chainOpening  = "PATCHBAY_OPENINGS"
)

// openings are the rules of ours in iptables' FORWARD.
type openings struct {
	source netstate.Source
	// rules are those of each opening of our source, as iptables lists them.
	rules map[netstate.Key][]string
	// others counts the rules of other sources, and strays are those of none.
	others map[netstate.Family]int
	strays map[netstate.Family][]string
	// chains says in which families the chain is there, and jumps in which packets
	// come to it.
	chains, jumps map[netstate.Family]bool
	// entered are the chains that packets come to before a rule drops them.
	entered map[netstate.Family]map[string]bool
}

func newOpenings(s netstate.Source) openings {
	return openings{source: s, rules: map[netstate.Key][]string{}, others: map[netstate.Family]int{}, strays: map[netstate.Family][]string{},
		chains: map[netstate.Family]bool{}, jumps: map[netstate.Family]bool{}}
}

// iptablesNFT finds a program of iptables-nft for a family, such as
// ip6tables-nft-restore; it is empty where there is none.
func iptablesNFT(f netstate.Family, suffix string) string {
	path, _ := exec.LookPath(variantNFT.program(f == netstate.IPv6, suffix))
	return path
}

// load reads our rules, where there is a chain of ours.
func (o *openings) load(ctx context.Context, chains []otherChain, entered map[netstate.Family]map[string]bool) error {
	*o = newOpenings(o.source)
	o.entered = entered
	for _, c := range chains {
		of := forwardFamilies[c.Family]
		if c.Table != filterTable || c.Name != chainOpening || len(of) != 1 || iptablesNFT(of[0], "") == "" {
			continue
		}
		if err := o.read(ctx, of[0]); err != nil {
			return err
		}
	}
	return nil
}

func (o *openings) read(ctx context.Context, f netstate.Family) error {
	rules, err := rulesOfFilter(ctx, f, chainOpening)
	if err != nil {
		return err
	}
	for _, r := range rules {
		source, name, owned := ownerOf(r.spec)
		is, named := openingNamed(name)
		switch {
		case !owned || !named:
			o.strays[f] = append(o.strays[f], r.spec)
		case source != o.source:
			o.others[f]++
		default:
			o.rules[is.Key()] = append(o.rules[is.Key()], r.spec)
		}
	}
	o.chains[f], o.jumps[f] = true, o.entered[f][chainOpening]
	return nil
}

// rulesOfFilter lists the rules of iptables-nft's table filter, or of one chain there.
func rulesOfFilter(ctx context.Context, f netstate.Family, chain ...string) ([]ipRule, error) {
	args := append([]string{"-w", fmt.Sprint(lockPatience), "-t", filterTable, "-S"}, chain...)
	out, err := output(ctx, "", iptablesNFT(f, ""), args...)
	if err != nil {
		return nil, fmt.Errorf("list rules of table %s: %w", filterTable, err)
	}
	var rules []ipRule
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "); ok {
			in, spec, _ := strings.Cut(rest, " ")
			rules = append(rules, ipRule{spot{area{f == netstate.IPv6, filterTable}, in}, spec})
		}
	}
	return rules, nil
}

// jump is the rule that leads to our chain.
const jump = marked + "-j " + chainOpening

// openingJumps are the rules of ours that lead to our chain, wherever they are.
func openingJumps(ctx context.Context, f netstate.Family) ([]ipRule, error) {
	rules, err := rulesOfFilter(ctx, f)
	return slices.DeleteFunc(rules, func(r ipRule) bool { return canon(r.spec) != canon(jump) }), err
}

// loadForward reads who drops forwarded packets, and what is open there.
func (b *nftables) loadForward(ctx context.Context) error {
	is, chains, err := b.forwards.list(ctx, b.path, func(c otherChain) bool {
		return c.iptables() && iptablesNFT(forwardFamilies[c.Family][0], "-restore") != ""
	})
	if err != nil {
		return err
	}
	legacy, err := legacyBlockers(ctx)
	if err != nil {
		return err
	}
	b.blockers = append(is.blockers, legacy...)
	b.beside = slices.ContainsFunc(chains, func(c otherChain) bool { return strings.HasPrefix(c.Name, chainPrefix) })
	return b.openings.load(ctx, chains, is.entered)
}

// openingNamed is the opening of a key's text after its kind.
func openingNamed(name string) (netstate.Opening, bool) {
	o, ok := objectFrom(name, nil).(netstate.Opening)
	return o, ok
}

// specs are the rules of an opening.
func (o *openings) specs(is netstate.Opening) []string {
	var out []string
	for _, l := range rulesOf(o.source, is) {
		out = append(out, l.spec)
	}
	return out
}

// whole returns the opening of a key if its rules are there, and no others, and lead
// somewhere.
func (o *openings) whole(k netstate.Key) (netstate.Opening, bool) {
	rules, held := o.rules[k]
	is, known := openingNamed(k.String())
	return is, held && known && o.jumps[is.Family] && sameSpecs(inOrderOf(rules), inOrderOf(o.specs(is)))
}

func inOrderOf(specs []string) []string {
	return slices.SortedFunc(slices.Values(specs), func(a, b string) int { return strings.Compare(canon(a), canon(b)) })
}

// apartOpenings takes the steps of openings out of others.
func apartOpenings(steps []plan.Step) (opened, rest []plan.Step) {
	for _, s := range steps {
		if s.Key.Kind == netstate.KindOpening {
			opened = append(opened, s)
		} else {
			rest = append(rest, s)
		}
	}
	return opened, rest
}

// open carries out steps of openings, those of a family in one transaction.
func (b *nftables) open(ctx context.Context, steps []plan.Step) error {
	var errs []error
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		of := ofOpenings(steps, f)
		if len(of) == 0 {
			continue
		}
		if err := b.openIn(ctx, f, of); err != nil {
			errs = append(errs, fmt.Errorf("change openings of %s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

func ofOpenings(steps []plan.Step, f netstate.Family) []plan.Step {
	of := slices.DeleteFunc(slices.Clone(steps), func(s plan.Step) bool {
		is, ok := openingNamed(s.Key.String())
		return !ok || is.Family != f
	})
	slices.SortFunc(of, func(a, b plan.Step) int { return a.Key.Compare(b.Key) })
	return of
}

func (b *nftables) openIn(ctx context.Context, f netstate.Family, steps []plan.Step) error {
	if iptablesNFT(f, "-restore") == "" {
		return errors.New("there is no iptables")
	}
	rules := b.openings.after(steps)
	if b.openings.others[f] == 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(rules)), func(k netstate.Key) bool {
		is, _ := openingNamed(k.String())
		return is.Family == f
	}) {
		return b.removeChain(ctx, f)
	}
	var jumps []ipRule
	if b.openings.chains[f] && !b.openings.jumps[f] {
		var err error
		if jumps, err = openingJumps(ctx, f); err != nil {
			return err
		}
	}
	if err := b.restore(ctx, f, b.openings.commands(f, steps, jumps)); err != nil {
		return err
	}
	b.openings.rules, b.openings.chains[f], b.openings.jumps[f] = rules, true, true
	delete(b.openings.strays, f)
	return nil
}

// after are the rules once steps are carried out.
func (o *openings) after(steps []plan.Step) map[netstate.Key][]string {
	rules := maps.Clone(o.rules)
	for _, s := range steps {
		delete(rules, s.Key)
		if is, ok := s.New.(netstate.Opening); ok && s.Op != plan.Delete {
			rules[s.Key] = o.specs(is)
		}
	}
	return rules
}

// commands carry out the steps of a family, and have packets come to our chain
// before any rule that drops them; jumps are those that lead there now, too late.
func (o *openings) commands(f netstate.Family, steps []plan.Step, jumps []ipRule) []string {
	var out []string
	if !o.chains[f] {
		out = append(out, "-N "+chainOpening)
	}
	remove := func(specs []string) {
		for _, spec := range specs {
			out = append(out, "-D "+chainOpening+" "+spec)
		}
	}
	remove(o.strays[f])
	for _, s := range steps {
		remove(o.rules[s.Key])
		if is, ok := s.New.(netstate.Opening); ok && s.Op != plan.Delete {
			for _, spec := range o.specs(is) {
				out = append(out, "-A "+chainOpening+" "+spec)
			}
		}
	}
	if o.jumps[f] {
		return out
	}
	entrance := chainIptables
	if o.entered[f][chainDocker] {
		entrance = chainDocker
	}
	return append(append(out, deletions(jumps)...), "-I "+entrance+" "+jump)
}

// restore carries out commands in the table filter of iptables-nft, all or none.
func (b *nftables) restore(ctx context.Context, f netstate.Family, commands []string) error {
	r := restore{f == netstate.IPv6, restoreOf(filterTable, commands), 1}
	if err := b.gens.own(func() error { return r.run(ctx, variantNFT) }); err != nil {
		return err
	}
	b.count.Add(1)
	b.opts.Step()
	return nil
}

// removeChain removes the chain of a family with all rules, and what leads there.
func (b *nftables) removeChain(ctx context.Context, f netstate.Family) error {
	if !b.openings.chains[f] {
		return nil
	}
	jumps, err := openingJumps(ctx, f)
	if err != nil {
		return err
	}
	if err := b.restore(ctx, f, append(deletions(jumps), "-F "+chainOpening, "-X "+chainOpening)); err != nil {
		return fmt.Errorf("remove chain %s: %w", chainOpening, err)
	}
	maps.DeleteFunc(b.openings.rules, func(k netstate.Key, _ []string) bool { return len(ofOpenings([]plan.Step{{Key: k}}, f)) > 0 })
	delete(b.openings.chains, f)
	delete(b.openings.jumps, f)
	delete(b.openings.strays, f)
	delete(b.openings.others, f)
	return nil
}

// closeOwn removes the openings of our source.
func (b *nftables) closeOwn(ctx context.Context) error {
	var steps []plan.Step
	for k := range b.openings.rules {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: k})
	}
	return b.open(ctx, steps)
}

// closeAll removes all openings, whatever their source.
func (b *nftables) closeAll(ctx context.Context) error {
	var errs []error
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		errs = append(errs, b.removeChain(ctx, f))
	}
	return errors.Join(errs...)
}

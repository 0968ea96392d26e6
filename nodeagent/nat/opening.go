package nat

import (
	"context"
	"errors"
	"fmt"
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
	programs map[netstate.Family]ipProgram
	source   netstate.Source
	// rules are how many of its two rules each opening of our source has, and
	// others how many rules there are of other sources.
	rules  map[netstate.Key]int
	others map[netstate.Family]int
	// jumps says in which families packets come to them.
	jumps map[netstate.Family]bool
	// entered are the chains that packets come to before a rule drops them.
	entered map[netstate.Family]map[string]bool
}

// program is iptables of a family; empty where there is none.
func (o *openings) program(f netstate.Family) ipProgram {
	if p, known := o.programs[f]; known {
		return p
	}
	var p ipProgram
	if found, err := exec.LookPath(variantNFT.program(f == netstate.IPv6, "")); err == nil {
		p = ipProgram(found)
	}
	if o.programs == nil {
		o.programs = map[netstate.Family]ipProgram{}
	}
	o.programs[f] = p
	return p
}

// load reads our rules, where there is a chain of ours.
func (o *openings) load(chains []otherChain, entered map[netstate.Family]map[string]bool) error {
	o.entered = entered
	o.rules, o.jumps, o.others = map[netstate.Key]int{}, map[netstate.Family]bool{}, map[netstate.Family]int{}
	for f, family := range map[netstate.Family]string{netstate.IPv4: "ip", netstate.IPv6: "ip6"} {
		has := func(name string) bool {
			return slices.ContainsFunc(chains, func(c otherChain) bool { return c.Family == family && c.Table == filterTable && c.Name == name })
		}
		if p := o.program(f); p != "" && has(chainOpening) {
			if err := o.read(p, f); err != nil {
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

func (o *openings) read(p ipProgram, f netstate.Family) error {
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
	o.jumps[f] = o.entered[f][chainOpening]
	return nil
}

// mark is the comment of our rules.
func (o *openings) mark() string { return "patchbay:" + string(o.source) }

var jump = []string{"-m", "comment", "--comment", "patchbay", "-j", chainOpening}

// loadForward reads who drops forwarded packets, and what is open there.
func (b *nftables) loadForward(ctx context.Context) error {
	is, chains, err := b.forwards.list(ctx, b.path, func(c otherChain) bool {
		return c.iptables() && b.openings.program(forwardFamilies[c.Family][0]) != ""
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
	return b.openings.load(chains, is.entered)
}

func opening(k netstate.Key) netstate.Opening {
	return netstate.Opening{Family: netstate.Family(k.Name), Link: k.Link}
}

// whole returns the opening of a key if both its rules are there and lead
// somewhere.
func (o *openings) whole(k netstate.Key) (netstate.Opening, bool) {
	is := opening(k)
	return is, k.Kind == netstate.KindOpening && o.rules[k] == 2 && o.jumps[is.Family]
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

// open carries out steps of openings, each iptables call a transaction of ours.
func (b *nftables) open(steps []plan.Step) error {
	var errs []error
	for _, s := range steps {
		is := opening(s.Key)
		p := b.openings.program(is.Family)
		if p == "" {
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

func (b *nftables) openOne(p ipProgram, o netstate.Opening) error {
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
	if err = b.lead(p, o.Family); err == nil {
		b.openings.rules[o.Key()], b.openings.jumps[o.Family] = 2, true
		b.count.Add(1)
		b.opts.Step()
	}
	return err
}

// lead has packets come to our chain, before any rule that drops them.
func (b *nftables) lead(p ipProgram, f netstate.Family) error {
	if b.openings.jumps[f] {
		return nil
	}
	docker, err := p.ChainExists(filterTable, chainDocker)
	if err != nil {
		return err
	}
	from := entrance(docker && b.openings.entered[f][chainDocker])
	if err := b.gens.own(func() error { return p.DeleteIfExists(filterTable, from, jump...) }); err != nil {
		return err
	}
	return b.gens.own(func() error { return p.Insert(filterTable, from, 1, jump...) })
}

func (o *openings) rulesOf(is netstate.Opening) [][]string {
	tail := []string{"-m", "comment", "--comment", o.mark(), "-j", "ACCEPT"}
	return [][]string{append([]string{"-i", is.Link}, tail...), append([]string{"-o", is.Link}, tail...)}
}

// shut removes an opening, and with the last one of a family the chain.
func (b *nftables) shut(p ipProgram, o netstate.Opening) error {
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

func (b *nftables) removeChain(p ipProgram) error {
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

// closeOwn removes the openings of our source.
func (b *nftables) closeOwn() error {
	for k := range b.openings.rules {
		o := opening(k)
		if err := b.shut(b.openings.program(o.Family), o); err != nil {
			return fmt.Errorf("remove %s: %w", k, err)
		}
	}
	return nil
}

// closeAll removes all openings, whatever their source.
func (b *nftables) closeAll() error {
	for f := range b.openings.jumps {
		if err := b.removeChain(b.openings.program(f)); err != nil {
			return fmt.Errorf("remove chain %s: %w", chainOpening, err)
		}
	}
	b.openings.rules, b.openings.jumps, b.openings.others = map[netstate.Key]int{}, map[netstate.Family]bool{}, map[netstate.Family]int{}
	return nil
}

package foreign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"golang.org/x/sys/unix"
)

// The openings in iptables' chains, which are in tables of nftables' own: Docker
// sets the policy of FORWARD to DROP there and leaves DOCKER-USER to other programs. Their
// chain does not have the prefix of the dialect that is iptables, which makes
// openings otherwise and mends chains with its prefix.
const (
	filterTable = "filter"
	chainDocker = "DOCKER-USER"
	AcceptChain = "PATCHBAY_OPENINGS"
)

// Accepts are our rules in iptables' FORWARD.
type Accepts struct {
	source netstate.Source
	// write carries out a restore of iptables-nft.
	write func(context.Context, iptsave.Restore) error
	// rules are the rules of each opening of our source, as iptables lists them.
	rules  map[netstate.Key][]string
	chains map[netstate.Family]acceptChain
	// entered are the chains that packets come to before a rule drops them.
	entered map[netstate.Family]map[string]bool
}

// acceptChain is our chain in one family.
type acceptChain struct {
	// there says that the chain exists, entered that packets come to it.
	there, entered bool
	// others is the number of rules of other sources; strays are rules of no source.
	others int
	strays []string
}

// NewAccepts has no rules; write carries out their changes.
func NewAccepts(s netstate.Source, write func(context.Context, iptsave.Restore) error) Accepts {
	return Accepts{source: s, write: write, rules: map[netstate.Key][]string{}, chains: map[netstate.Family]acceptChain{}}
}

// IptablesNFT finds a program of iptables-nft for a family, such as
// ip6tables-nft-restore; it is empty where there is none.
func IptablesNFT(f netstate.Family, suffix string) string {
	path, _ := exec.LookPath(iptsave.NFT.Program(f == netstate.IPv6, suffix))
	return path
}

// Load reads our rules, where there is one of our chains.
func (o *Accepts) Load(ctx context.Context, chains []nfnl.Chain, entered map[netstate.Family]map[string]bool) error {
	*o = NewAccepts(o.source, o.write)
	o.entered = entered
	for _, c := range chains {
		of := ForwardFamilies[c.Family]
		if c.Table != filterTable || c.Name != AcceptChain || len(of) != 1 || IptablesNFT(of[0], "") == "" {
			continue
		}
		if err := o.read(ctx, of[0]); err != nil {
			return err
		}
	}
	return nil
}

func (o *Accepts) read(ctx context.Context, f netstate.Family) error {
	rules, err := rulesOfFilter(ctx, f, AcceptChain)
	if err != nil {
		return err
	}
	c := acceptChain{there: true, entered: o.entered[f][AcceptChain]}
	for _, r := range rules {
		source, name, owned := iptsave.OwnerOf(r.Spec)
		is, named := AcceptNamed(name)
		switch {
		case !owned || !named:
			c.strays = append(c.strays, r.Spec)
		case source != o.source:
			c.others++
		default:
			o.rules[is.Key()] = append(o.rules[is.Key()], r.Spec)
		}
	}
	o.chains[f] = c
	return nil
}

// rulesOfFilter lists the rules of iptables-nft's table filter, or of one chain there.
func rulesOfFilter(ctx context.Context, f netstate.Family, chain ...string) ([]iptsave.Rule, error) {
	args := append([]string{"-w", fmt.Sprint(iptsave.LockPatience), "-t", filterTable, "-S"}, chain...)
	out, err := program.Run(ctx, "", IptablesNFT(f, ""), args...)
	if err != nil {
		return nil, fmt.Errorf("list rules of table %s: %w", filterTable, err)
	}
	var rules []iptsave.Rule
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "); ok {
			in, spec, _ := strings.Cut(rest, " ")
			rules = append(rules, iptsave.InTable(f == netstate.IPv6, filterTable).At(in).With(spec))
		}
	}
	return rules, nil
}

// jump is the rule that leads to our chain.
const jump = iptsave.Marked + "-j " + AcceptChain

// openingJumps are our rules that lead to our chain, wherever they are.
func openingJumps(ctx context.Context, f netstate.Family) ([]iptsave.Rule, error) {
	rules, err := rulesOfFilter(ctx, f)
	return slices.DeleteFunc(rules, func(r iptsave.Rule) bool { return iptsave.Canon(r.Spec) != iptsave.Canon(jump) }), err
}

// AcceptNamed is the opening of a key's text after its kind.
func AcceptNamed(name string) (netstate.Opening, bool) {
	kind, rest, _ := strings.Cut(name, " ")
	link, more, _ := strings.Cut(rest, " ")
	o := openingFrom(link, more)
	return o, kind == netstate.KindOpening.String() && o.Key().String() == name && book.Check(o) == nil
}

// Object returns the opening of a key, and whether its rules are there, without further ones,
// and lead somewhere.
func (o *Accepts) Object(k netstate.Key) (netstate.Object, bool) {
	rules, held := o.rules[k]
	is, known := AcceptNamed(k.String())
	if !held || !known {
		return nil, false
	}
	return is, o.chains[is.Family].entered && iptsave.SameSpecs(inOrderOf(rules), inOrderOf(AcceptRules(o.source, is)))
}

// Objects are the openings of the source, complete or not.
func (o *Accepts) Objects() (all []netstate.Object) {
	for k := range o.rules {
		if is, ok := AcceptNamed(k.String()); ok {
			all = append(all, is)
		}
	}
	return all
}

func inOrderOf(specs []string) []string {
	return slices.SortedFunc(slices.Values(specs), func(a, b string) int { return strings.Compare(iptsave.Canon(a), iptsave.Canon(b)) })
}

// ApartAccepts takes the steps of openings out of all steps.
func ApartAccepts(steps []plan.Step) (opened, rest []plan.Step) {
	for _, s := range steps {
		if s.Key.Kind == netstate.KindOpening {
			opened = append(opened, s)
		} else {
			rest = append(rest, s)
		}
	}
	return opened, rest
}

// Open carries out steps of openings, for each family in one transaction.
func (o *Accepts) Open(ctx context.Context, steps []plan.Step) error {
	var errs []error
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		of := ofOpenings(steps, f)
		if len(of) == 0 {
			continue
		}
		if err := o.openIn(ctx, f, of); err != nil {
			errs = append(errs, fmt.Errorf("change openings of %s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// opens reports whether a key is of an opening of a family.
func opens(k netstate.Key, f netstate.Family) bool {
	is, ok := AcceptNamed(k.String())
	return ok && is.Family == f
}

func ofOpenings(steps []plan.Step, f netstate.Family) []plan.Step {
	of := slices.DeleteFunc(slices.Clone(steps), func(s plan.Step) bool { return !opens(s.Key, f) })
	slices.SortFunc(of, func(a, b plan.Step) int { return a.Key.Compare(b.Key) })
	return of
}

func (o *Accepts) openIn(ctx context.Context, f netstate.Family, steps []plan.Step) error {
	if IptablesNFT(f, "-restore") == "" {
		return errors.New("there is no iptables")
	}
	rules, c := o.after(steps), o.chains[f]
	if c.others == 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(rules)), func(k netstate.Key) bool { return opens(k, f) }) {
		return o.removeChain(ctx, f)
	}
	var jumps []iptsave.Rule
	if c.there && !c.entered {
		var err error
		if jumps, err = openingJumps(ctx, f); err != nil {
			return err
		}
	}
	if err := o.restore(ctx, f, o.commands(f, steps, jumps)); err != nil {
		return err
	}
	o.rules, o.chains[f] = rules, acceptChain{there: true, entered: true, others: c.others}
	return nil
}

// after are the rules once steps are carried out.
func (o *Accepts) after(steps []plan.Step) map[netstate.Key][]string {
	rules := maps.Clone(o.rules)
	for _, s := range steps {
		delete(rules, s.Key)
		if is, ok := s.New.(netstate.Opening); ok && s.Op != plan.Delete {
			rules[s.Key] = AcceptRules(o.source, is)
		}
	}
	return rules
}

// commands carry out the steps of a family, and have packets come to our chain
// before any rule that drops them; jumps are the rules that lead there now, too late.
func (o *Accepts) commands(f netstate.Family, steps []plan.Step, jumps []iptsave.Rule) []string {
	var out []string
	c := o.chains[f]
	if !c.there {
		out = append(out, "-N "+AcceptChain)
	}
	remove := func(specs []string) {
		for _, spec := range specs {
			out = append(out, "-D "+AcceptChain+" "+spec)
		}
	}
	remove(c.strays)
	for _, s := range steps {
		remove(o.rules[s.Key])
		if is, ok := s.New.(netstate.Opening); ok && s.Op != plan.Delete {
			for _, spec := range AcceptRules(o.source, is) {
				out = append(out, "-A "+AcceptChain+" "+spec)
			}
		}
	}
	if c.entered {
		return out
	}
	entrance := iptsave.Forward
	if o.entered[f][chainDocker] {
		entrance = chainDocker
	}
	return append(append(out, iptsave.Deletions(jumps)...), "-I "+entrance+" "+jump)
}

// removeChain removes the chain of a family with all rules, and what leads there.
func (o *Accepts) removeChain(ctx context.Context, f netstate.Family) error {
	if !o.chains[f].there {
		return nil
	}
	jumps, err := openingJumps(ctx, f)
	if err != nil {
		return err
	}
	if err := o.restore(ctx, f, append(iptsave.Deletions(jumps), "-F "+AcceptChain, "-X "+AcceptChain)); err != nil {
		return fmt.Errorf("remove chain %s: %w", AcceptChain, err)
	}
	maps.DeleteFunc(o.rules, func(k netstate.Key, _ []string) bool { return opens(k, f) })
	delete(o.chains, f)
	return nil
}

// CloseAll removes all openings, whatever their source.
func (o *Accepts) CloseAll(ctx context.Context) error {
	var errs []error
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		errs = append(errs, o.removeChain(ctx, f))
	}
	return errors.Join(errs...)
}

// AboutAccepts looks for events about the chain that has our openings.
func AboutAccepts(kind uint16, body []byte) bool {
	_, table, attrs := nfnl.TableOf(kind, body)
	if table != filterTable {
		return false
	}
	switch kind & 0xff {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return nfnl.NameIn(attrs, unix.NFTA_RULE_CHAIN) == AcceptChain
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return nfnl.NameIn(attrs, unix.NFTA_CHAIN_NAME) == AcceptChain
	}
	return false
}

// openingFrom reads an opening's name, such as "ipv4 out eth0" or "ipv4 to
// 10.0.0.2:80-82/tcp".
func openingFrom(link, name string) netstate.Opening {
	family, rest, _ := strings.Cut(name, " ")
	o := netstate.Opening{Family: netstate.Family(family), Link: link}
	switch way, what, _ := strings.Cut(rest, " "); way {
	case "out":
		o.Out = what
	case "to":
		what, o.Proto, _ = strings.Cut(what, "/")
		colon := strings.LastIndex(what, ":")
		ports := book.Fields{what[colon+1:]}
		first, last := ports.Ports(0)
		o.To, _ = netip.ParseAddrPort(fmt.Sprintf("%s:%d", what[:max(colon, 0)], first))
		o.End = last
	}
	return o
}

// answering packets are of connections that other programs opened to where these come from.
const answering = " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY"

// AcceptRules are the rules of an opening. None accepts by where a packet comes from
// alone: the receiver may be a guest of other programs, kept from strangers by what drops after
// this.
func AcceptRules(s netstate.Source, o netstate.Opening) []string {
	rule := func(match string) string {
		return fmt.Sprintf("%s -m comment --comment %q -j ACCEPT", match, iptsave.Comment(s, o.Key()))
	}
	switch {
	case o.Out != "":
		return []string{rule("-i " + o.Link + " -o " + o.Out)}
	case o.To.IsValid():
		ports := fmt.Sprint(o.To.Port())
		if o.End != 0 {
			ports += fmt.Sprintf(":%d", o.End)
		}
		host, by := netip.PrefixFrom(o.To.Addr(), o.To.Addr().BitLen()).String(), " -p "+o.Proto
		return []string{
			rule("-d " + host + " -o " + o.Link + by + " --dport " + ports + " -m conntrack --ctstate DNAT"),
			rule("-s " + host + " -i " + o.Link + by + " --sport " + ports + " -m conntrack --ctstate DNAT --ctdir REPLY"),
		}
	}
	return []string{rule("-o " + o.Link), rule("-i " + o.Link + answering)}
}

// restore carries out commands in the table filter of iptables-nft, all or none.
func (o *Accepts) restore(ctx context.Context, f netstate.Family, commands []string) error {
	return o.write(ctx, iptsave.Restore{Six: f == netstate.IPv6, Text: iptsave.Text(filterTable, commands), Commits: 1})
}

// AcceptInputs are what makes the openings of each family where there is no chain
// for them yet, and none of Docker's.
func AcceptInputs(source netstate.Source, steps []plan.Step) []program.Input {
	o := NewAccepts(source, nil)
	var out []program.Input
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		if of := ofOpenings(steps, f); len(of) > 0 {
			out = append(out, program.Input{Program: iptsave.NFT.Program(f == netstate.IPv6, "-restore"), Text: iptsave.Text(filterTable, o.commands(f, of, nil))})
		}
	}
	return out
}

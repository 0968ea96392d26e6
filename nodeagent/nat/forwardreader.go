package nat

import (
	"context"
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

const (
	// wholeTable is how many chains a table may have to be read at once. A service
	// proxy's may have thousands, of which a few see all forwarded packets.
	wholeTable = 200
	// maxForwardRuns bounds how many chains are read one by one.
	maxForwardRuns = 50
)

// forwardReader reads the rules of chains when they are asked for.
type forwardReader struct {
	ctx    context.Context
	nft    string
	chains map[watchedChain]int
	// flagged tables are read chain by chain: see listTables.
	flagged map[watchedChain]bool
	// unread are chains of which nobody can tell what they do.
	unread  map[watchedChain]bool
	rules   map[watchedChain][]forwardRule
	watched map[watchedChain]bool
	runs    int
	err     error
}

func newForwardReader(ctx context.Context, nft string, chains []otherChain) *forwardReader {
	r := &forwardReader{ctx: ctx, nft: nft, chains: map[watchedChain]int{}, flagged: map[watchedChain]bool{}, unread: map[watchedChain]bool{}, rules: map[watchedChain][]forwardRule{}, watched: map[watchedChain]bool{}}
	for _, c := range chains {
		whole := watchedChain{c.Family, c.Table, ""}
		r.chains[whole]++
		r.flagged[whole] = c.of.flags != 0
	}
	return r
}

// all follows forwarded packets through all chains at that hook.
func (r *forwardReader) all(chains []otherChain) forwarding {
	is := forwarding{entered: map[netstate.Family]map[string]bool{}}
	for _, c := range chains {
		if !c.forwards() {
			continue
		}
		r.watched[watchedChain{family: c.Family, table: c.Table}] = true
		if c.of.dormant() {
			continue
		}
		for _, f := range forwardFamilies[c.Family] {
			unknown := false
			w := newWalk(f, func(chain string) []forwardRule {
				at := watchedChain{c.Family, c.Table, chain}
				rules := r.of(at)
				unknown = unknown || r.unread[at]
				return rules
			})
			b, blocks := w.blocker(c.String(), c.Name, c.Policy == "drop")
			// In a table that is not read whole, each chain is a run of nft.
			if c.iptables() && r.chains[watchedChain{c.Family, c.Table, ""}] <= wholeTable {
				b.Names = w.names(c.Name, map[string]bool{})
			}
			if b.Unknown = unknown; blocks || unknown {
				is.blockers, is.at = append(is.blockers, b), append(is.at, c)
			}
			if c.iptables() {
				is.entered[f] = map[string]bool{chainDocker: w.comesTo(chainDocker), chainOpening: w.comesTo(chainOpening)}
			}
		}
	}
	for _, c := range chains {
		if c.elsewhere() {
			r.elsewhere(c, &is)
		}
	}
	return is
}

// elsewhere follows packets through a chain at another hook. What cannot be read there
// is left out: it is no more than a firewall of which nobody knows.
func (r *forwardReader) elsewhere(c otherChain, is *forwarding) {
	r.watched[watchedChain{family: c.Family, table: c.Table}] = true
	if c.of.dormant() {
		return
	}
	families := forwardFamilies[c.Family]
	if families == nil {
		families = bothFamilies
	}
	for _, f := range families {
		w := newWalk(f, func(chain string) []forwardRule { return r.of(watchedChain{c.Family, c.Table, chain}) })
		for _, b := range w.elsewhere(c) {
			is.blockers, is.at = append(is.blockers, b), append(is.at, c)
		}
	}
}

var bothFamilies = []netstate.Family{netstate.IPv4, netstate.IPv6}

func (w *walk) comesTo(chain string) bool {
	_, yes := w.entered[chain]
	return yes
}

// of are the rules of a chain, which is watched from now on.
func (r *forwardReader) of(c watchedChain) []forwardRule {
	whole := watchedChain{c.family, c.table, ""}
	r.watched[c], r.watched[whole] = true, true
	rules, known := r.rules[c]
	if _, read := r.rules[whole]; known || read || r.err != nil {
		return rules
	}
	if r.chains[whole] <= wholeTable && !r.flagged[whole] {
		r.rules[whole] = nil
		if r.read(c, "-t", "--json", "list", "table", c.family, c.table) {
			return r.rules[c]
		}
		delete(r.rules, whole)
		r.flagged[whole] = true
	}
	if r.runs < maxForwardRuns {
		r.runs++
		r.rules[c] = nil
		r.unread[c] = !r.read(c, "-t", "--json", "list", "chain", c.family, c.table, c.chain)
	}
	return r.rules[c]
}

// read takes the rules of a listing, and reports whether there was one to take.
func (r *forwardReader) read(c watchedChain, args ...string) bool {
	out, err := output(r.ctx, "", r.nft, args...)
	if crashed(err) {
		return false
	}
	if err != nil {
		r.err = fmt.Errorf("%s: %w", strings.Join(args[2:], " "), err)
		return true
	}
	rules, err := parseForward(out)
	for chain, of := range rules {
		r.rules[watchedChain{c.family, c.table, chain}] = of
	}
	return err == nil
}

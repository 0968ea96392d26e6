package foreign

import (
	"context"
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

const (
	// wholeTable is how many chains a table may have to be read at once. A service
	// proxy's may have thousands, and forwarded packets come to a few.
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
	// unread are chains that nft could not list.
	unread  map[watchedChain]bool
	rules   map[watchedChain][]forwardRule
	watched map[watchedChain]bool
	runs    int
	err     error
}

func newForwardReader(ctx context.Context, nft string, chains []nfnl.Chain) *forwardReader {
	r := &forwardReader{ctx: ctx, nft: nft, chains: map[watchedChain]int{}, flagged: map[watchedChain]bool{}, unread: map[watchedChain]bool{}, rules: map[watchedChain][]forwardRule{}, watched: map[watchedChain]bool{}}
	for _, c := range chains {
		whole := watchedChain{c.Family, c.Table, ""}
		r.chains[whole]++
		r.flagged[whole] = c.Of.Flags != 0
	}
	return r
}

// all follows forwarded packets through all chains at that hook.
func (r *forwardReader) all(chains []nfnl.Chain) forwarding {
	is := forwarding{Entered: map[netstate.Family]map[string]bool{}}
	for _, c := range chains {
		if !forwards(c) {
			continue
		}
		r.watched[watchedChain{family: c.Family, table: c.Table}] = true
		if c.Of.Dormant() {
			continue
		}
		for _, f := range ForwardFamilies[c.Family] {
			unknown := false
			w := newWalk(f, func(chain string) []forwardRule {
				at := watchedChain{c.Family, c.Table, chain}
				rules := r.of(at)
				unknown = unknown || r.unread[at]
				return rules
			})
			b, blocks := w.blocker(c.String(), c.Name, c.Policy == "drop")
			// In a table that is not read whole, each chain is a run of nft.
			if IsIPTables(c) && r.chains[watchedChain{c.Family, c.Table, ""}] <= wholeTable {
				b.Names = w.names(c.Name, map[string]bool{})
			}
			if b.Unknown = unknown; blocks || unknown {
				is.Blockers, is.at = append(is.Blockers, b), append(is.at, c)
			}
			if IsIPTables(c) {
				is.Entered[f] = map[string]bool{chainDocker: w.comesTo(chainDocker), AcceptChain: w.comesTo(AcceptChain)}
			}
		}
	}
	for _, c := range chains {
		if elsewhere(c) {
			r.elsewhere(c, &is)
		}
	}
	return is
}

// elsewhere follows packets through a chain at another hook. A chain that cannot be read
// there is left out.
func (r *forwardReader) elsewhere(c nfnl.Chain, is *forwarding) {
	r.watched[watchedChain{family: c.Family, table: c.Table}] = true
	if c.Of.Dormant() {
		return
	}
	families := ForwardFamilies[c.Family]
	if families == nil {
		families = bothFamilies
	}
	for _, f := range families {
		w := newWalk(f, func(chain string) []forwardRule { return r.of(watchedChain{c.Family, c.Table, chain}) })
		for _, b := range w.elsewhere(c) {
			is.Blockers, is.at = append(is.Blockers, b), append(is.at, c)
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
	out, err := program.Run(r.ctx, "", r.nft, args...)
	if program.Crashed(err) {
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

package firewall

import (
	"maps"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// Backend is a Firewall as tests ask it.
type Backend struct{ *Firewall }

func (b Backend) Load() error {
	_, err := b.Inventory()
	return err
}

func (b Backend) Apply(steps []plan.Step) error { return b.apply(steps) }

// Observe returns the objects that are whole.
func (b Backend) Observe(keys []netstate.Key) netstate.Set {
	set, _ := b.Firewall.Observe(keys)
	maps.DeleteFunc(set, func(_ netstate.Key, o netstate.Object) bool { _, partial := o.(netstate.Partial); return partial })
	return set
}

func (b Backend) Held() netstate.Set { return netstate.Set{}.Add(b.Objects()...) }

// kind is a backend as tests make it.
type kind struct {
	name string
	make func(testing.TB, Options) Backend
}

// kinds are all backends, iptables in both variants whichever is the node's own.
var kinds = []kind{
	{"nftables", openNFT},
	{"iptables-nft", func(t testing.TB, o Options) Backend { return ipBackend(t, iptsave.NFT, o) }},
	{"iptables-legacy", func(t testing.TB, o Options) Backend { return ipBackend(t, iptsave.Legacy, o) }},
}

func ipBackend(t testing.TB, v iptsave.Variant, o Options) Backend {
	t.Helper()
	b, err := openIPTables(v, o)
	if err != nil {
		t.Fatal(err)
	}
	return Backend{b}
}

func (k kind) open(t testing.TB, source netstate.Source) Backend {
	t.Helper()
	return k.make(t, Options{Source: source})
}

// loaded is a backend that has just read the kernel.
func (k kind) loaded(t testing.TB, source netstate.Source) Backend {
	t.Helper()
	b := k.open(t, source)
	if err := b.Load(); err != nil {
		t.Fatal(err)
	}
	return b
}

// eachKind runs a test with every backend that can work here; prefix begins the
// names of its subtests.
func eachKind(t *testing.T, test func(*testing.T, kind), prefix ...string) {
	t.Helper()
	for _, k := range kinds {
		runKind(t, k, strings.Join(prefix, "")+k.name, test)
	}
}

func runKind(t *testing.T, k kind, name string, test func(*testing.T, kind)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		if k.name == "iptables-legacy" && exec.Command("iptables-legacy", "-t", "nat", "-S").Run() != nil {
			t.Skip("this kernel has no legacy iptables")
		}
		test(t, k)
	})
}

// able are the objects that a backend can hold.
func able(b Backend, s netstate.Set) (objects []netstate.Object) {
	for _, o := range firewalltest.List(s) {
		switch o.(type) {
		case netstate.PortFilter, netstate.PortAddress, netstate.AllowedMAC, netstate.AllowedPrefix, netstate.DHCPClient:
			if !b.AntiSpoof() {
				continue
			}
		}
		objects = append(objects, o)
	}
	return objects
}

func clean(t testing.TB, b Backend) {
	t.Helper()
	if err := b.Clean(); err != nil {
		t.Error(err)
	}
	firewalltest.Same(t, "what is left", "", firewall(t))
}

// firewall is all that Patchbay has in any firewall, without built-in tables that are left
// empty.
func firewall(t testing.TB) string {
	t.Helper()
	var out []string
	for _, command := range []string{"nft list ruleset | grep -A999 -E 'table (inet|bridge)' || true", saveOf(iptsave.NFT), saveOf(iptsave.Legacy)} {
		out = append(out, netlab.Shell(t, command))
	}
	return firewalltest.ListedCounts.ReplaceAllString(strings.Join(out, ""), "packets 0 bytes 0")
}

// saveOf lists the rules of Patchbay and of other programs that a variant holds.
func saveOf(v iptsave.Variant) string {
	return "for f in iptables ip6tables; do $f-" + string(v) + "-save 2>/dev/null | grep -E '^(-A|:PATCHBAY|:FORWARD DROP)' || true; done"
}

var tableLines = regexp.MustCompile(`(?m)^(#.*|:[A-Z]+ ACCEPT.*|COMMIT)\n`)

// tablesOf shows what a variant holds, as iptables-save does.
func tablesOf(t testing.TB, v iptsave.Variant) string {
	t.Helper()
	text := netlab.Shell(t, "for f in iptables ip6tables; do echo \"$f:\"; for t in raw filter mangle nat; do $f-"+string(v)+"-save -t $t 2>/dev/null; done; done")
	return tableLines.ReplaceAllString(text, "")
}

package kernel

import (
	"strconv"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

func shaperOn(l netstate.Link, rate, burst uint64) netstate.Shaper {
	return netstate.NewShaper(netstate.End{Netns: l.Netns, Name: l.Name}, l.MTU, rate, burst)
}

func ifb(name string) netstate.Link {
	return netstate.Link{Name: name, Type: netstate.IFB, MAC: netstate.MAC{2, 0, 0, 0, 3, 0}, MTU: 1400, Mark: netstate.Mark(netstate.SourceLocal, net1), Up: true}
}

// limited is an attachment that receives and sends at most 20 Mbit/s.
func limited(t *testing.T, k *Kernel) (host, through netstate.Link, limits []netstate.Object) {
	t.Helper()
	_, host, _ = attachment(t, k)
	through = ifb("ifb1")
	build(t, k, through)
	limits = []netstate.Object{shaperOn(host, 20_000_000, 64_000), shaperOn(through, 20_000_000, 64_000), netstate.Redirect{Link: "veth1", To: "ifb1"}}
	apply(t, k, create(limits...))
	return host, through, limits
}

// TestShapersAreReadBack applies rates from the least to the most, each burst
// the least and the most, and finds what it applied.
func TestShapersAreReadBack(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, host, inside := attachment(t, k)
	for rate := uint64(8_000); rate <= 1_000_000_000_000; rate = rate * 7 / 3 {
		for _, burst := range []uint64{4_000, 64_000, rate / 400, 2_000_000_000} {
			for _, l := range []netstate.Link{host, inside} {
				s := shaperOn(l, rate, burst)
				apply(t, k, create(s))
				wantObserved(t, k, keysOf(s), s)
			}
		}
	}
	most := shaperOn(host, 1_000_000_000_000, 1_000_000_000_000/400)
	apply(t, k, []plan.Step{{Op: plan.Update, Key: most.Key(), New: most}})
	wantObserved(t, k, keysOf(most), most)
}

func TestLimitsAreChangedInPlaceAndRemoved(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	host, through, limits := limited(t, k)
	wantObserved(t, k, append(keysOf(limits...), through.Key()), append([]netstate.Object{through}, limits...)...)
	for _, o := range append([]netstate.Object{through}, limits...) {
		if !hasObject(inventory(t, k), o) {
			t.Errorf("the inventory lacks %s", o.Key())
		}
	}
	if got := sh(t, "tc qdisc show dev veth1 && tc qdisc show dev ifb1"); strings.Count(got, "rate 20Mbit burst 63Kb") != 2 {
		t.Errorf("tc shows\n%s", got)
	}

	faster := shaperOn(host, 5_000_000_000, 64_000)
	before := k.Writes()
	apply(t, k, []plan.Step{{Op: plan.Update, Key: faster.Key(), Old: limits[0], New: faster}})
	if n := k.Writes() - before; n != 1 {
		t.Errorf("a new rate took %d writes", n)
	}
	wantObserved(t, k, keysOf(faster), faster)

	apply(t, k, append(remove(through), remove(limits...)...))
	wantObserved(t, k, append(keysOf(limits...), through.Key()))
	if got := sh(t, "tc qdisc show dev veth1; tc filter show dev veth1 ingress; ip -o link show type ifb"); got != "qdisc noqueue 0: root refcnt 2" {
		t.Errorf("left behind:\n%s", got)
	}
	apply(t, k, append(remove(through), remove(limits...)...))
}

// TestLimitsReplaceWhatIsThere puts foreign qdiscs and filters where Patchbay's belong; they
// are not taken for Patchbay's, and give way.
func TestLimitsReplaceWhatIsThere(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, host, inside := attachment(t, k)
	through := ifb("ifb1")
	build(t, k, through)
	limits := []netstate.Object{shaperOn(host, 20_000_000, 64_000), shaperOn(inside, 20_000_000, 64_000), netstate.Redirect{Link: "veth1", To: "ifb1"}}
	sh(t, `tc qdisc add dev veth1 root handle 1: htb; tc -n net1 qdisc add dev eth0 root tbf rate 1gbit burst 1m latency 1ms
		tc qdisc add dev veth1 clsact
		tc filter add dev veth1 ingress pref 1 protocol ip u32 match ip dst 10.0.0.1 action mirred egress redirect dev ifb1`)
	wantObserved(t, k, keysOf(limits...))
	for _, h := range inventory(t, k) {
		if kind := h.Object.Key().Kind; kind == netstate.KindShaper || kind == netstate.KindRedirect {
			t.Errorf("in the inventory: %v", h)
		}
	}
	apply(t, k, create(limits...))
	wantObserved(t, k, keysOf(limits...), limits...)

	// A foreign filter beside Patchbay's outlives it.
	sh(t, "tc filter add dev veth1 egress pref 9 protocol ip u32 match u32 0 0 action mirred egress redirect dev ifb1")
	apply(t, k, remove(limits[2]))
	wantObserved(t, k, keysOf(limits...), limits[:2]...)
	sh(t, "tc filter show dev veth1 egress | grep -q 'pref 9'")
}

func TestDriftOfLimits(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	host, _, limits := limited(t, k)
	redirect, broken := limits[2], netstate.Redirect{Link: "veth1", To: unknown}
	faster := shaperOn(host, 40_000_000, 64_000)
	events := watch(t, k)
	for _, c := range []struct {
		command string
		match   func(Event) bool
		want    []netstate.Object
	}{
		{"tc qdisc del dev veth1 root", isGone(limits[0]), limits[1:]},
		{"tc qdisc replace dev veth1 root handle 7: htb", isGone(limits[0]), limits[1:]},
		{"tc qdisc change dev veth1 root tbf rate 40mbit burst 63kb limit " + decimal(faster.Queue), isObject(faster), append([]netstate.Object{faster}, limits[1:]...)},
		{"tc qdisc change dev veth1 root tbf rate 20mbit burst 63kb limit 1mb peakrate 30mbit mtu 2000", isObject(netstate.Shaper{Link: "veth1"}), append([]netstate.Object{netstate.Shaper{Link: "veth1"}}, limits[1:]...)},
		{"tc qdisc del dev ifb1 root", isGone(limits[1]), []netstate.Object{limits[0], redirect}},
		{"tc filter del dev veth1 ingress", isLook(redirect), []netstate.Object{limits[0], limits[1], broken}},
		{"tc qdisc del dev veth1 clsact", isLook(redirect), limits[:2]},
		{"tc filter replace dev veth1 ingress pref 1 handle 800::800 protocol all u32 match u32 0 0 action mirred egress mirror dev ifb1 cookie 7061746368626179", isLook(redirect), []netstate.Object{limits[0], limits[1], broken}},
	} {
		apply(t, k, create(limits...))
		wantObserved(t, k, keysOf(limits...), limits...)
		events.clear()
		sh(t, "%s", c.command)
		events.want(t, c.command, c.match)
		wantObserved(t, k, keysOf(limits...), c.want...)
	}
	apply(t, k, create(limits...))
	sh(t, "ip link del ifb1")
	wantObserved(t, k, keysOf(limits...), limits[0], broken)
	build(t, k, ifb("ifb1"))
	apply(t, k, create(limits[1:]...))
	wantObserved(t, k, keysOf(limits...), limits...)
}

// TestHalfMadeRedirect finds a qdisc whose maker died before it had a filter.
func TestHalfMadeRedirect(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	attachment(t, k)
	sh(t, "tc qdisc add dev veth1 clsact")
	half := netstate.Redirect{Link: "veth1", To: unknown}
	wantObserved(t, k, keysOf(half), half)
	if !hasObject(inventory(t, k), half) {
		t.Error("the inventory lacks it")
	}
	apply(t, k, remove(half))
	if got := sh(t, "tc qdisc show dev veth1"); strings.Contains(got, "clsact") {
		t.Errorf("left behind: %s", got)
	}
}

// TestForeignLinksAreNotLimited: nothing is put on a foreign link, and nothing taken from
// it.
func TestForeignLinksAreNotLimited(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, limits := limited(t, k)
	sh(t, "ip link add other type veth peer name other2; tc qdisc add dev other root handle 5042: tbf rate 1mbit burst 10k latency 50ms; tc qdisc add dev other clsact")
	s, r := limits[0].(netstate.Shaper), limits[2].(netstate.Redirect)
	s.Link, r.Link = "other", "other"
	before := k.Writes()
	for _, err := range k.Apply(append(create(s, r), remove(s, r)...)) {
		if err == nil || !strings.Contains(err.Error(), "other") || !strings.Contains(err.Error(), ErrForeign.Error()) {
			t.Errorf("got %v", err)
		}
	}
	if n := k.Writes() - before; n != 0 {
		t.Errorf("%d writes", n)
	}
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

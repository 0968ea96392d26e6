package announce

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

func create(objects ...netstate.Object) []plan.Step {
	var steps []plan.Step
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Create, Key: o.Key(), New: o})
	}
	return steps
}

func bridge(name string) netstate.Link { return netstate.Link{Name: name, Type: netstate.Bridge} }

// attachment is a new namespace's veth with one address.
func attachment(netns, master, address string) []netstate.Object {
	inside := netstate.End{Netns: netns, Name: "eth0"}
	host := netstate.Link{Name: "veth-" + netns, Type: netstate.Veth, Peer: inside, Master: master}
	return []netstate.Object{host,
		netstate.Link{Netns: netns, Name: "eth0", Type: netstate.Veth, Peer: netstate.End{Name: host.Name}},
		netstate.Address{Netns: netns, Link: "eth0", Prefix: netip.MustParsePrefix(address)}}
}

// TestNewAddressesAreSilent: of the attachments of a new bridge none is announced, so that
// what they cost does not grow with the ports.
func TestNewAddressesAreSilent(t *testing.T) {
	var h History
	objects := []netstate.Object{bridge("br-red")}
	for i := range 900 {
		objects = append(objects, attachment(fmt.Sprint("n", i), "br-red", fmt.Sprintf("10.68.%d.%d/16", i/250, i%250+1))...)
	}
	if targets := h.Add(create(objects...)); len(targets) > 0 {
		t.Errorf("%d of 900 are announced", len(targets))
	}
}

func TestAnnounced(t *testing.T) {
	end := netstate.End{Netns: "new", Name: "eth0"}
	old := attachment("old", "br-red", "10.68.0.5/16")
	fresh := attachment("new", "br-red", "10.68.0.5/16")
	moved := fresh[1].(netstate.Link)
	moved.MAC[0] = 2
	for name, c := range map[string]struct {
		before [][]plan.Step
		steps  []plan.Step
		want   int
	}{
		"an address on a bridge of before":     {nil, create(fresh...), 1},
		"the first on a new bridge":            {[][]plan.Step{create(bridge("br-red"))}, create(fresh...), 0},
		"an address that another had":          {[][]plan.Step{create(bridge("br-red")), create(old...)}, create(fresh...), 1},
		"behind a foreign port":                {[][]plan.Step{create(bridge("br-red"), netstate.Port{Link: "eth1", Master: "br-red"})}, create(fresh...), 1},
		"a bridge that went and was not ours":  {[][]plan.Step{create(bridge("br-red")), {{Op: plan.Delete, Key: bridge("br-red").Key()}}}, create(fresh...), 1},
		"a further address":                    {[][]plan.Step{create(bridge("br-red")), create(fresh...)}, create(netstate.Address{Netns: "new", Link: "eth0", Prefix: netip.MustParsePrefix("10.68.0.6/16")}), 1},
		"another MAC address":                  {[][]plan.Step{create(bridge("br-red")), create(fresh...)}, []plan.Step{{Op: plan.Update, Key: moved.Key(), Old: fresh[1], New: moved}}, 1},
		"an address of the host":               {nil, create(netstate.Address{Link: "br-red", Prefix: netip.MustParsePrefix("10.68.0.1/16")}), 0},
		"an address that another had and lost": {[][]plan.Step{create(bridge("br-red")), create(old...), {{Op: plan.Delete, Key: old[2].Key(), Old: old[2]}}}, create(fresh...), 1},
	} {
		var h History
		for _, steps := range c.before {
			h.Add(steps)
		}
		targets := h.Add(c.steps)
		if _, ok := targets[end]; len(targets) != c.want || c.want == 1 && !ok {
			t.Errorf("%s: announced are %v", name, targets)
		}
	}
}

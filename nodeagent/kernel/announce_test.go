package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestAnnouncementWaitsForPort: a bridge drops what a port sends before it forwards, and
// with it an announcement.
func TestAnnouncementWaitsForPort(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	sh(t, `ip link add name br0 type bridge; ip link set br0 up
		for n in a b; do
			ip netns add $n; ip link add v$n type veth peer name eth0 netns $n; ip link set v$n master br0 up
			ip -n $n link set eth0 address 02:00:00:00:00:0$n; ip -n $n link set eth0 up
		done
		ip -n a address add 10.9.0.2/24 dev eth0
		ip -n b address add 10.9.0.3/24 dev eth0
		ip -n b neigh add 10.9.0.2 lladdr 02:00:00:00:00:0c dev eth0 nud stale`)
	k := open(t)
	neighbour := func() string { return sh(t, "ip -n b neigh show 10.9.0.2") }
	netlab.Until(t, 5*time.Second, "the port forwards", func() bool { return strings.Contains(sh(t, "bridge link show dev va"), "forwarding") })
	sh(t, "bridge link set dev va state 0")
	target := netstate.Address{Netns: "a", Link: "eth0", Prefix: netip.MustParsePrefix("10.9.0.2/24")}
	k.Announce(create(target))
	time.Sleep(100 * time.Millisecond)
	if got := neighbour(); !strings.Contains(got, "00:0c") {
		t.Fatalf("heard through a port that does not forward: %s", got)
	}
	sh(t, "bridge link set dev va state 3")
	k.announcing.Wait()
	netlab.Until(t, 5*time.Second, "the neighbour learns the address", func() bool { return strings.Contains(neighbour(), "00:0a") })
}

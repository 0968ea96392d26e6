package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

func nodeSysctl(path, value string) netstate.Sysctl {
	return netstate.Sysctl{Path: path, Value: value, Restore: true}
}

func wantSysctl(t *testing.T, path, want string) {
	t.Helper()
	if got, err := sysctl.Read(path); err != nil || got != want {
		t.Errorf("%s is %q (%v), want %q", path, got, err, want)
	}
}

func TestSysctlIsRestored(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	const path = "net/ipv4/ip_local_port_range"
	sh(t, "sysctl -qw net.ipv4.ip_local_port_range='20000 30000'")
	ours := nodeSysctl(path, "21000 30000")
	apply(t, k, create(ours))
	wantObserved(t, k, keysOf(ours), ours)
	// A second wish keeps the first record.
	ours.Value = "22000 30000"
	apply(t, k, steps(plan.Update, []netstate.Object{ours}))

	restarted := open(t)
	if held := inventory(t, restarted); len(held) != 1 || held[0] != (netstate.Held{Object: ours}) {
		t.Fatalf("inventory %v", held)
	}
	apply(t, restarted, remove(ours))
	wantSysctl(t, path, "20000 30000")
	if held := inventory(t, restarted); len(held) > 0 {
		t.Errorf("inventory after deletion %v", held)
	}
	writes := k.Writes()
	apply(t, k, remove(ours))
	if k.Writes() != writes {
		t.Error("deleting it again wrote something")
	}
}

// TestSettings: the sysctls of a link that its messages tell are as in /proc/sys.
func TestSettings(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add eth1 type veth peer eth2")
	for _, name := range []string{"ipv4/forwarding", "ipv4/rp_filter", "ipv4/arp_ignore", "ipv4/route_localnet", "ipv6/forwarding", "ipv6/accept_ra", "ipv6/disable_ipv6", "ipv6/accept_dad", "ipv6/keep_addr_on_down"} {
		family, name, _ := strings.Cut(name, "/")
		one := netstate.Sysctl{Link: "eth1", Path: "net/" + family + "/conf/eth1/" + name}
		if !rtnl.IsSetting(one.Link, one.Path) {
			t.Errorf("%s is not told", one.Path)
		}
		for _, one.Value = range []string{"1", "0"} {
			sh(t, "echo %s > /proc/sys/%s", one.Value, one.Path)
			wantObserved(t, k, keysOf(one), one)
		}
	}
	// With less, a link has no IPv6.
	sh(t, "ip link set eth1 mtu 1000")
	wantObserved(t, k, keysOf(netstate.Sysctl{Link: "eth1", Path: "net/ipv6/conf/eth1/accept_ra"}))
}

func TestSysctlOfSomebodyElseStays(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	const path = "net/ipv4/ip_local_port_range"
	ours := nodeSysctl(path, "21000 30000")
	apply(t, k, create(ours))
	sh(t, "sysctl -qw net.ipv4.ip_local_port_range='25000 30000'")
	apply(t, k, remove(ours))
	wantSysctl(t, path, "25000 30000")
	if held := inventory(t, k); len(held) > 0 {
		t.Errorf("inventory %v", held)
	}
}

func TestForwardingIsRestored(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for _, c := range []struct{ path, conf string }{
		{"net/ipv4/ip_forward", "net/ipv4/conf/"},
		{"net/ipv6/conf/all/forwarding", "net/ipv6/conf/"},
	} {
		k := open(t)
		sh(t, "ip link add eth1 type veth peer eth2; echo 1 > /proc/sys/%seth1/forwarding", c.conf)
		ours := nodeSysctl(c.path, "1")
		apply(t, k, create(ours))
		wantSysctl(t, c.path, "1")
		wantSysctl(t, c.conf+"eth2/forwarding", "1")
		if n, err := k.Node(); err != nil || n.Forwarding[netstate.IPv4] || n.Forwarding[netstate.IPv6] {
			t.Errorf("the node forwards by somebody else's will: %v, %v", n.Forwarding, err)
		}
		sh(t, "ip link add eth3 type veth peer eth4")
		apply(t, k, remove(ours))
		for name, want := range map[string]string{"eth1": "1", "eth2": "0", "eth3": "0", "default": "0"} {
			wantSysctl(t, c.conf+name+"/forwarding", want)
		}
		wantSysctl(t, c.path, "0")
		sh(t, "ip link del eth1; ip link del eth3")
	}
}

func TestSysctlRefusesStrangePaths(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	for _, path := range []string{"", ".", "../../etc/passwd", "/etc/passwd", "net/../../x", "net//ipv4/ip_forward"} {
		if err := k.Apply(create(nodeSysctl(path, "1")))[0]; err == nil {
			t.Errorf("wrote %q", path)
		}
		if _, errs := k.Observe(keysOf(nodeSysctl(path, ""))); len(errs) == 0 {
			t.Errorf("read %q", path)
		}
	}
}

// TestDamagedRecord shows that a damaged record is named, and neither hides other records
// nor keeps a sysctl from being given up or taken anew.
func TestDamagedRecord(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	ours, other := nodeSysctl("net/ipv4/ip_forward", "1"), nodeSysctl("net/ipv4/conf/default/rp_filter", "2")
	for _, content := range []string{"", "{", "\x00\x00", `{"source":"x"}`, `{"source":"local","others":{"../x":"1"}}`} {
		apply(t, k, create(ours, other))
		file := k.sysctls.File(ours.Path)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if damaged := k.DamagedRecords(); len(damaged) != 1 || damaged[file] == nil {
			t.Errorf("%q: damaged records %v", content, damaged)
		}
		if held := inventory(t, k); !hasObject(held, other) || hasObject(held, ours) {
			t.Errorf("%q: inventory %v", content, held)
		}
		apply(t, k, remove(ours))
		apply(t, k, create(ours))
		if held := inventory(t, k); !hasObject(held, ours) {
			t.Errorf("%q: not recorded anew: %v", content, held)
		}
		apply(t, k, remove(ours, other))
	}
	if _, err := os.Stat(filepath.Join("/run/patchbay/sysctl")); !os.IsNotExist(err) {
		t.Errorf("the folder of records stays: %v", err)
	}
}

package hostport

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const four, six = "192.0.2.1", "2001:db8::1"

func prepare(t *testing.T) {
	t.Helper()
	netlab.Shell(t, "ip addr add "+four+"/24 dev lo; ip addr add "+six+"/64 dev lo nodad")
}

func publish(proto, host string, port uint16) netstate.Publish {
	return netstate.Publish{Host: netip.MustParseAddr(host), Proto: proto, HostPort: port}
}

// serve listens as a process of the node does. The network may end in 4 or 6;
// tcp and udp without a number are of both families on the unspecified address.
func serve(t *testing.T, network, address string) io.Closer {
	t.Helper()
	c, err := try(network, address)
	if err != nil {
		t.Fatalf("listen on %s %s: %v", network, address, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func try(network, address string) (io.Closer, error) {
	return netlab.Serve(netlab.Node, network, address, "")
}

func listeners(t *testing.T, p *Ports, pub netstate.Publish) []Listener {
	t.Helper()
	found, err := p.Listeners([]netstate.Publish{pub})
	if err != nil {
		t.Fatal(err)
	}
	return found[pub.Key()]
}

// TestListeners: which ports a publish would take from which process.
func TestListeners(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	const wild4, wild6, loop = "0.0.0.0", "::", "127.0.0.1"
	for i, c := range []struct {
		network, address string
		inTheWay, not    []string
	}{
		{"tcp4", wild4, []string{wild4, four, loop}, []string{wild6, six}},
		{"tcp", wild6, []string{wild4, four, loop, wild6, six}, nil},
		{"tcp6", wild6, []string{wild6, six}, []string{wild4, four}},
		{"tcp4", four, []string{wild4, four}, []string{"192.0.2.2", loop, wild6}},
		{"tcp4", loop, []string{loop}, []string{wild4, four, wild6}},
		{"tcp6", six, []string{wild6, six}, []string{"2001:db8::2", wild4}},
		{"tcp6", "::1", nil, []string{wild6, six, wild4}},
		{"udp4", wild4, []string{wild4, four, loop}, []string{wild6}},
		{"udp", wild6, []string{wild4, four, wild6, six}, nil},
		{"udp6", wild6, []string{wild6, six}, []string{wild4, four}},
		{"udp4", four, []string{wild4, four}, []string{"192.0.2.2"}},
		{"udp6", six, []string{wild6, six}, []string{wild4}},
		{"udp4", "255.255.255.255", nil, []string{wild4, four}},
	} {
		port := uint16(8000 + i)
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			proto, address := c.network[:3], netip.AddrPortFrom(netip.MustParseAddr(c.address), port)
			server, p := serve(t, c.network, address.String()), New()
			want := Listener{Proto: proto, Address: address, Command: "hostport.test", PID: os.Getpid()}
			for _, host := range c.inTheWay {
				if got := listeners(t, p, publish(proto, host, port)); len(got) != 1 || got[0] != want {
					t.Errorf("a publish on %s finds %v, want %v", host, got, want)
				}
				other := map[string]string{"tcp": "udp", "udp": "tcp"}[proto]
				for _, free := range []netstate.Publish{publish(proto, host, port+100), publish(other, host, port)} {
					if got := listeners(t, p, free); len(got) != 0 {
						t.Errorf("a publish of %s finds %v, want nobody", free.Key(), got)
					}
				}
			}
			for _, host := range c.not {
				if got := listeners(t, p, publish(proto, host, port)); len(got) != 0 {
					t.Errorf("a publish on %s finds %v, want nobody", host, got)
				}
			}
			server.Close()
			for _, host := range c.inTheWay {
				if got := listeners(t, p, publish(proto, host, port)); len(got) != 0 {
					t.Errorf("a publish on %s finds %v that has gone", host, got)
				}
			}
		})
	}
}

// Several publishes are asked about at once, ranges too.
func TestListenersOfMany(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	for _, a := range []string{"0.0.0.0:9000", "0.0.0.0:9010", "0.0.0.0:9065", "0.0.0.0:9066"} {
		serve(t, "tcp4", a)
	}
	short, long, one := publish("tcp", "0.0.0.0", 9000), publish("tcp", "0.0.0.0", 9000), publish("tcp", four, 9066)
	short.HostPortEnd, long.HostPortEnd = 9001, 9065
	found, err := New().Listeners([]netstate.Publish{short, long, one, publish("sctp", four, 9000), publish("udp", four, 9000)})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 3 || len(found[short.Key()]) != 1 || len(found[long.Key()]) != 3 || len(found[one.Key()]) != 1 {
		t.Errorf("found %v", found)
	}
	if got, want := fmt.Sprint(found[long.Key()][1]), fmt.Sprintf("hostport.test (PID %d) listens on TCP 0.0.0.0:9010", os.Getpid()); got != want {
		t.Errorf("the second is %q, want %q", got, want)
	}
}

// A socket of the kernel has no process, and is in the way all the same.
func TestListenerOfTheKernel(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	netlab.Shell(t, "ip link add vx0 type vxlan id 7 dstport 4789 dev lo; ip link set vx0 up")
	got := listeners(t, New(), publish("udp", "0.0.0.0", 4789))
	if len(got) != 1 || got[0].PID != 0 || got[0].String() != "a process listens on UDP 0.0.0.0:4789" {
		t.Errorf("found %v", got)
	}
}

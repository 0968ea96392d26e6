package others

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// patience bounds every wait for a state that comes by itself.
const patience = 20 * time.Second

// node is the machine that a test runs on, with Patchbay's agent: the network red with
// the namespace net1, whose port 80 is published as 8080, and beyond wan0 the namespace
// outside, by which the node's default routes lead.
type node struct {
	t *testing.T
	// programs are those started, by name.
	programs map[string]*netlab.Process
}

const (
	manifest = `apiVersion: patchbay.dev/v1alpha1
kind: BridgeNetwork
metadata: {name: red}
spec: {subnets: [192.168.1.0/24, "fd00::/64"]}
---
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: net1, namespace: lab}
spec: {target: {netns: {name: net1}}, network: red, addresses: [192.168.1.2/24, "fd00::2/64"]}
---
apiVersion: patchbay.dev/v1alpha1
kind: PortPublish
metadata: {name: web, namespace: lab}
spec: {attachment: net1, ports: [{hostPort: 8080, targetPort: 80}]}
`
	outside netlab.Netns = "outside"
)

// newNode makes the node without an agent.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, programs: map[string]*netlab.Process{}}
	lan := netlab.Machine{Netns: outside, Port: "wan0", Default: true,
		Node: []string{"198.51.100.1/24", "2001:db8::1/64"}, Own: []string{"198.51.100.2/24", "2001:db8::2/64"}}
	if err := lan.Make(); err != nil {
		t.Fatal(err)
	}
	n.sh("ip route add default via 198.51.100.2; ip route add default via 2001:db8::2")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := netlab.Node.Run("sh", "-c", "tail -n 20 /run/*.log; patchbay status; iptables -S FORWARD; nft list chain inet firewalld filter_FORWARD 2>/dev/null")
			t.Log(out)
		}
	})
	return n
}

// agent starts an agent on one of the firewalls, where all passes.
func (n *node) agent(backend string) {
	n.t.Helper()
	n.sh("mkdir -p /run/manifests")
	if err := os.WriteFile("/run/manifests/red.yaml", []byte(manifest), 0o644); err != nil {
		n.t.Fatal(err)
	}
	n.run("agent", "patchbay", "agent", "--manifests", "/run/manifests", "--nat-backend", backend)
	n.eventually("the agent builds", func() error { return n.try("patchbay status | grep -q '^lab/web .*True'") })
	n.serve(outside, ":80", "outside")
	n.serve("net1", ":80", "ours")
	n.opens("at first", true)
}

// run starts a program whose output is in /run/NAME.log.
func (n *node) run(name string, program ...string) {
	n.t.Helper()
	p, err := netlab.Start(exec.Command(program[0], program[1:]...), "/run/"+name+".log")
	if err != nil {
		n.t.Fatal(err)
	}
	n.programs[name] = p
}

// stop ends a program as a service manager does, and waits for its end.
func (n *node) stop(name string) {
	n.t.Helper()
	if err := n.programs[name].Stop(patience); err != nil {
		n.t.Logf("%s ended: %v", name, err)
	}
}

func (n *node) sh(command string) string {
	n.t.Helper()
	return strings.TrimSpace(netlab.Shell(n.t, command))
}

func (n *node) try(command string) error {
	_, err := netlab.Node.Run("sh", "-ec", command)
	return err
}

func (n *node) eventually(what string, check func() error) {
	n.t.Helper()
	netlab.Eventually(n.t, patience, what, check)
}

// serve starts a server that ends with the test.
func (n *node) serve(at netlab.Netns, address, text string) {
	n.t.Helper()
	server, err := netlab.Serve(at, "http", address, text)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { server.Close() })
}

// dial asks a server from a namespace; the answer must be its text.
func (n *node) dial(from netlab.Netns, address, text string) error {
	got, err := netlab.Ask(from, "http", address, time.Second)
	if err == nil && !regexp.MustCompile("(?m)^"+text+"( |$)").MatchString(got) {
		err = fmt.Errorf("%s answers %q", address, got)
	}
	return err
}

// reaches waits until a server answers. What comes late is for the agent to repair.
func (n *node) reaches(when string, from netlab.Netns, address, text string) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%s: %s reaches %s at %s", when, from, text, address), func() error { return n.dial(from, address, text) })
}

// closed fails where a server answers that must not.
func (n *node) closed(when string, from netlab.Netns, address, text string) {
	n.t.Helper()
	if n.dial(from, address, text) == nil {
		n.t.Fatalf("%s: %s reaches %s at %s", when, from, text, address)
	}
}

// opens waits until status says that traffic of the network passes, or not, and checks
// that packets of the network, and to what it publishes, meet what status says.
func (n *node) opens(when string, want bool) {
	n.t.Helper()
	word := "False"
	if want {
		word = "True"
	}
	n.eventually(when+": status of the network is "+word, func() error { return n.try("patchbay status | grep -Eq '^red .* " + word + " '") })
	for _, address := range []string{"198.51.100.2:80", "[2001:db8::2]:80"} {
		n.agrees(when, "net1", address, "outside", want)
	}
	published := n.try("patchbay status | grep -Eq '^lab/web .* True '") == nil
	for _, address := range []string{"198.51.100.1:8080", "[2001:db8::1]:8080"} {
		n.agrees(when, outside, address, "ours", published)
	}
	n.closed(when, outside, "192.168.1.2:80", "ours")
}

// agrees checks that a server is reached, or not.
func (n *node) agrees(when string, from netlab.Netns, address, text string, reached bool) {
	n.t.Helper()
	if reached {
		n.reaches(when, from, address, text)
	} else {
		n.closed(when, from, address, text)
	}
}

// foreign are the rules of iptables that are not Patchbay's, in their order.
func (n *node) foreign() string {
	return n.sh("for f in iptables ip6tables; do $f-save | grep '^-A' | grep -vi patchbay || true; done")
}

// end removes all of Patchbay: only objects of other programs are left.
func (n *node) end() {
	n.t.Helper()
	before := n.foreign()
	n.stop("agent")
	n.sh("patchbay delete --all")
	if after := n.foreign(); after != before {
		n.t.Errorf("rules of others before removal:\n%s\nafter:\n%s", before, after)
	}
	if left := n.sh("(iptables-save; ip6tables-save; nft list tables) | grep -i patchbay || true"); left != "" {
		n.t.Errorf("left of Patchbay:\n%s", left)
	}
}

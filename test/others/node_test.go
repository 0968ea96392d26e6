package others

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a state that comes by itself.
const patience = 20 * time.Second

// node is the machine that a test runs on, with Patchbay's agent: the network red with
// the namespace net1, whose port 80 is published as 8080, and beyond wan0 the namespace
// outside, by which the node's default routes lead.
type node struct {
	t *testing.T
	// programs are those started, by name.
	programs map[string]*exec.Cmd
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
	lan = `ip netns add outside
ip link add wan0 type veth peer name eth0 netns outside
ip address add 198.51.100.1/24 dev wan0; ip address add 2001:db8::1/64 dev wan0 nodad; ip link set wan0 up
ip -n outside address add 198.51.100.2/24 dev eth0; ip -n outside address add 2001:db8::2/64 dev eth0 nodad
ip -n outside link set eth0 up; ip -n outside link set lo up
ip -n outside route add default via 198.51.100.1; ip -n outside route add default via 2001:db8::1
ip route add default via 198.51.100.2; ip route add default via 2001:db8::2`
)

// newNode makes the node without an agent.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, programs: map[string]*exec.Cmd{}}
	n.sh(lan)
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
	n.run("outside", "ip", "netns", "exec", "outside", "httpd", ":80", "outside")
	n.run("net1", "ip", "netns", "exec", "net1", "httpd", ":80", "ours")
	n.opens("at first", true)
}

// run starts a program whose output is in /run/NAME.log.
func (n *node) run(name string, program ...string) {
	n.t.Helper()
	log, err := os.Create("/run/" + name + ".log")
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.programs[name] = cmd
}

// stop ends a program as a service manager does, and waits for its end.
func (n *node) stop(name string) {
	n.t.Helper()
	_ = n.programs[name].Process.Signal(os.Interrupt)
	if err := n.programs[name].Wait(); err != nil {
		n.t.Logf("%s ended: %v", name, err)
	}
}

func (n *node) sh(command string) string {
	n.t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v\n%s\n%s", command, err, out, n.logs())
	}
	return strings.TrimSpace(string(out))
}

func (n *node) try(command string) error {
	if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

func (n *node) logs() string {
	out, _ := exec.Command("sh", "-c", "tail -n 20 /run/*.log; patchbay status; iptables -S FORWARD; nft list chain inet firewalld filter_FORWARD 2>/dev/null").CombinedOutput()
	return string(out)
}

func (n *node) eventually(what string, check func() error) {
	n.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	n.t.Fatalf("%s: %v\n%s", what, err, n.logs())
}

// inside is a namespace: a name, or the process id of a container.
func inside(place string) string {
	if regexp.MustCompile(`^[0-9]+$`).MatchString(place) {
		return "nsenter --net=/proc/" + place + "/ns/net "
	}
	return "ip netns exec " + place + " "
}

// dial asks a server from a namespace; the answer must be its text.
func (n *node) dial(from, address, text string) error {
	return n.try(inside(from) + "curl -gsS --noproxy '*' --max-time 1 http://" + address + "/ | grep -q '^" + text + " '")
}

// reaches waits until a server answers. What comes late is for the agent to repair.
func (n *node) reaches(when, from, address, text string) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%s: %s reaches %s at %s", when, from, text, address), func() error { return n.dial(from, address, text) })
}

// closed fails where a server answers that must not.
func (n *node) closed(when, from, address, text string) {
	n.t.Helper()
	if n.dial(from, address, text) == nil {
		n.t.Fatalf("%s: %s reaches %s at %s\n%s", when, from, text, address, n.logs())
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
	for _, address := range []string{"198.51.100.2", "[2001:db8::2]"} {
		n.agrees(when, "net1", address, "outside", want)
	}
	published := n.try("patchbay status | grep -Eq '^lab/web .* True '") == nil
	for _, address := range []string{"198.51.100.1:8080", "[2001:db8::1]:8080"} {
		n.agrees(when, "outside", address, "ours", published)
	}
	n.closed(when, "outside", "192.168.1.2", "ours")
}

// agrees checks that a server is reached, or not.
func (n *node) agrees(when, from, address, text string, reached bool) {
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

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// patience bounds every wait for something that takes seconds.
const patience = 90 * time.Second

// lab is a set of manifests that a test applies, and takes away at its end.
type lab struct {
	t    *testing.T
	text string
}

func newLab(t *testing.T, manifests ...string) *lab {
	t.Helper()
	l := &lab{t, strings.Join(manifests, "")}
	t.Cleanup(func() {
		if t.Failed() {
			l.explain()
		}
		if _, err := kind.Kubectl(context.Background(), []byte(l.text), "delete", "--ignore-not-found", "--timeout=60s", "-f", "-"); err != nil {
			t.Errorf("clean up: %v", err)
		}
		clean(t)
	})
	l.apply()
	return l
}

func (l *lab) apply() {
	l.t.Helper()
	apply(l.t, l.text)
}

// add applies more, which the end of the test takes away too.
func (l *lab) add(manifest string) {
	l.t.Helper()
	l.text += manifest
	apply(l.t, manifest)
}

// explain prints what a reader of a failure asks first.
func (l *lab) explain() {
	for _, args := range [][]string{
		{"get", "bnet,nbr,nsa,pp,nodes,pods", "-A", "-o", "wide"},
		{"-n", "patchbay-system", "logs", "deploy/patchbay-controller", "--tail=60"},
		{"-n", "patchbay-system", "logs", "ds/patchbay-agent", "--all-pods", "--prefix", "--tail=60"},
	} {
		out, err := kind.Kubectl(context.Background(), nil, args...)
		l.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func network(name, subnet, more string) string {
	return fmt.Sprintf(`---
apiVersion: patchbay.dev/v1alpha1
kind: BridgeNetwork
metadata: {name: %s}
spec: {subnets: [%q], allowedNamespaces: {from: All}%s}
`, name, subnet, more)
}

func attachment(name, node, network string) string {
	return fmt.Sprintf(`---
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: %[1]s, namespace: default}
spec: {target: {netns: {name: %[1]s, nodeName: %[2]s}}, network: %[3]s}
`, name, node, network)
}

func publish(name, attachment string, hostPort, targetPort int) string {
	return fmt.Sprintf(`---
apiVersion: patchbay.dev/v1alpha1
kind: PortPublish
metadata: {name: %s, namespace: default}
spec: {attachment: %s, ports: [{hostPort: %d, targetPort: %d}]}
`, name, attachment, hostPort, targetPort)
}

// get reads an object.
func get[T any](t *testing.T, resource, name string) *T {
	t.Helper()
	o, err := try[T](resource, name)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func try[T any](resource, name string) (*T, error) {
	out, err := kind.Kubectl(context.Background(), nil, "get", resource, name, "-o", "json")
	if err != nil {
		return nil, err
	}
	o := new(T)
	return o, json.Unmarshal([]byte(out), o)
}

// status is what all kinds have in common.
type status struct {
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		NodeName   string             `json:"nodeName"`
		Addresses  []string           `json:"addresses"`
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

func (s *status) condition(name string) metav1.Condition {
	for _, c := range s.Status.Conditions {
		if c.Type == name {
			return c
		}
	}
	return metav1.Condition{}
}

// address is the first one, without its prefix length.
func address(t *testing.T, attachment string) string {
	t.Helper()
	s := get[status](t, "nsa", attachment)
	if len(s.Status.Addresses) == 0 {
		t.Fatalf("attachment %s has no address: %+v", attachment, s.Status)
	}
	ip, _, _ := strings.Cut(s.Status.Addresses[0], "/")
	return ip
}

// expect waits until a condition of an object, for its current generation, is
// "True Programmed" or the like.
func expect(t *testing.T, resource, name, condition, want string) {
	t.Helper()
	netlab.Eventually(t, patience, resource+"/"+name+" "+condition+"="+want, func() error {
		s, err := try[status](resource, name)
		if err != nil {
			return err
		}
		c := s.condition(condition)
		if got := string(c.Status) + " " + c.Reason; got != want {
			return fmt.Errorf("%s=%s: %s", condition, got, c.Message)
		}
		if c.ObservedGeneration < s.Generation {
			return fmt.Errorf("%s is of generation %d, the object of %d", condition, c.ObservedGeneration, s.Generation)
		}
		return nil
	})
}

// ready waits until resource/name, ... are Ready.
func ready(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		resource, name, _ := strings.Cut(n, "/")
		expect(t, resource, name, v1alpha1.ConditionReady, "True Programmed")
	}
}

// counts waits for the ready and the selected nodes of a network.
func counts(t *testing.T, network string, ready, selected int32) {
	t.Helper()
	netlab.Eventually(t, patience, fmt.Sprintf("network %s on %d of %d nodes", network, ready, selected), func() error {
		n, err := try[v1alpha1.BridgeNetwork]("bnet", network)
		if err != nil {
			return err
		}
		if got := n.Status.Nodes; got.Ready != ready || got.Selected != selected {
			return fmt.Errorf("on %d of %d; failing: %v", got.Ready, got.Selected, n.Status.FailingNodes)
		}
		return nil
	})
}

// on runs a shell command in a node.
func on(t *testing.T, node, command string) string {
	t.Helper()
	out, err := attempt(node, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func attempt(node, command string) (string, error) {
	return kind.Exec(context.Background(), node, nil, "sh", "-ec", command)
}

// ping waits until a namespace of a node reaches an address.
func ping(t *testing.T, node, netns, address string) {
	t.Helper()
	netlab.Eventually(t, patience, fmt.Sprintf("ping %s from %s on %s", address, netns, node), func() error {
		_, err := attempt(node, fmt.Sprintf("ip netns exec %s ping -c 1 -W 1 %s", netns, address))
		return err
	})
}

// serve runs an HTTP server in a namespace of a node, once that is there, until the test
// ends; it answers with the namespace's name.
func serve(t *testing.T, node, netns string, port int) {
	t.Helper()
	netlab.Eventually(t, patience, "namespace "+netns+" on "+node, func() error {
		_, err := attempt(node, "ip netns exec "+netns+" true")
		return err
	})
	command := fmt.Sprintf("timeout 900 ip netns exec %s /usr/local/bin/httpd :%d %s", netns, port, netns)
	server := cluster.Command(context.Background(), node, "sh", "-c", command)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = attempt(node, fmt.Sprintf("pkill -f 'httpd :%d %s' || true", port, netns))
		_ = server.Wait()
	})
}

// curl waits until an URL answers on a node with a text.
func curl(t *testing.T, node, url, want string) {
	t.Helper()
	netlab.Eventually(t, patience, "curl "+url+" on "+node, func() error {
		out, err := attempt(node, "curl -sS --max-time 2 "+url)
		if err == nil && !strings.HasPrefix(out, want) {
			err = fmt.Errorf("answers %q, not %q", out, want)
		}
		return err
	})
}

// nodeIP is a node's address.
func nodeIP(t *testing.T, node string) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`))
}

// traces lists Patchbay's objects on a node: links by their group, namespaces,
// elements of the firewall.
const traces = `ip -br link show group 1346525441
ip netns list | grep -v cni- || true
nft list ruleset | grep -e '"cluster"' -e patchbay:cluster || true`

// clean waits until no object of Patchbay is on any node.
func clean(t *testing.T) {
	t.Helper()
	for _, node := range cluster.Nodes() {
		netlab.Eventually(t, patience, "nothing left on "+node, func() error {
			out, err := attempt(node, traces)
			if left := strings.TrimSpace(out); err == nil && left != "" {
				err = fmt.Errorf("left:\n%s", left)
			}
			return err
		})
	}
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// workload is a Deployment or StatefulSet whose pods answer on port 8001 with
// their name. They ask nothing of Patchbay: no annotation, no privilege.
func workload(kind, name string, replicas int, where string) string {
	service := ""
	if kind == "StatefulSet" {
		service = "serviceName: " + name + ", "
	}
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: %s
metadata: {name: %[2]s, namespace: default}
spec:
  {%[3]sreplicas: %[4]d, selector: {matchLabels: {app: %[2]s}}, template: {metadata: {labels: {app: %[2]s}}, spec: {
    terminationGracePeriodSeconds: 1, %[5]s
    volumes: [{name: httpd, hostPath: {path: %[6]s, type: File}}],
    containers: [{name: httpd, image: %[7]s, imagePullPolicy: Never, command: [/httpd, ":8001", $(POD)],
      env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
      volumeMounts: [{name: httpd, mountPath: /httpd}]}]}}}
`, kind, name, service, replicas, where, httpd, cluster.Image)
}

const onWorker = "nodeSelector: {kubernetes.io/hostname: " + cluster.Worker + "},"

func selected(name, app, network string) string {
	return fmt.Sprintf(`---
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: %s, namespace: default}
spec: {target: {podSelector: {matchLabels: {app: %s}}}, network: %s}
`, name, app, network)
}

func podAttachment(name, pod, network string) string {
	return fmt.Sprintf(`---
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: %s, namespace: default}
spec: {target: {pod: {name: %s}}, network: %s}
`, name, pod, network)
}

// children are the attachments of a selector's pods.
func children(t *testing.T, parent string) []v1alpha1.NamespaceAttachment {
	t.Helper()
	list := v1alpha1.NamespaceAttachmentList{}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "nsa", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(a v1alpha1.NamespaceAttachment) bool { return v1alpha1.Parent(&a) != parent })
}

// wired waits until a selector has so many pods, all of them ready.
func wired(t *testing.T, parent string, pods int32) []v1alpha1.NamespaceAttachment {
	t.Helper()
	netlab.Eventually(t, patience, fmt.Sprintf("%d pods of %s", pods, parent), func() error {
		a, err := try[v1alpha1.NamespaceAttachment]("nsa", parent)
		if err != nil {
			return err
		}
		if got := a.Status.Pods; got == nil || got.Matched != pods || got.Ready != pods {
			return fmt.Errorf("%+v, %+v", got, a.Status.Conditions)
		}
		if n := len(children(t, parent)); n != int(pods) {
			return fmt.Errorf("%d children", n)
		}
		return nil
	})
	return children(t, parent)
}

func ipOf(a v1alpha1.NamespaceAttachment) string {
	ip, _, _ := strings.Cut(string(a.Status.Addresses[0]), "/")
	return ip
}

// talk has every pod reach every other one of its node by the second interface,
// and shows that its first one is as its network plugin made it.
func talk(t *testing.T, list []v1alpha1.NamespaceAttachment) {
	t.Helper()
	for _, from := range list {
		node, netns := from.Status.NodeName, from.Status.Interface.Netns
		asMade(t, from)
		for _, to := range list {
			if to.Status.NodeName != node || to.Name == from.Name {
				continue
			}
			ping(t, node, netns, ipOf(to))
			out := on(t, node, fmt.Sprintf("ip netns exec %s curl -sS --max-time 5 --interface net1 http://%s:8001", netns, ipOf(to)))
			if !strings.HasPrefix(out, to.Spec.Target.Pod.Name+" (you are "+ipOf(from)+":") {
				t.Errorf("%s answers %q", to.Spec.Target.Pod.Name, out)
			}
		}
	}
}

// asMade: a pod's first interface has the pod's address, and its default route is
// the only one.
func asMade(t *testing.T, a v1alpha1.NamespaceAttachment) {
	t.Helper()
	pod := get[corev1.Pod](t, "pod", a.Spec.Target.Pod.Name)
	out := on(t, a.Status.NodeName, fmt.Sprintf("ip -n %[1]s -br -4 addr show eth0; ip -n %[1]s route show default", a.Status.Interface.Netns))
	if strings.Count(out, "default") != 1 || !strings.Contains(out, "dev eth0") || !strings.Contains(out, pod.Status.PodIP+"/") {
		t.Errorf("the first interface of pod %s (%s) is\n%s", pod.Name, pod.Status.PodIP, out)
	}
}

// TestSelectedPods: the pods of a Deployment, selected onto a network and published
// as one, scaled up, rolled, and scaled to none.
func TestSelectedPods(t *testing.T) {
	newLab(t, workload("Deployment", "web", 3, ""), network("pods", "10.80.0.0/24", ""), selected("web", "web", "pods"), publish("web", "web", 20090, 8001),
		strings.Replace(publish("range", "web", 8001, 8001), "hostPort: 8001,", "hostPort: 8001, hostPortEnd: 8009,", 1))
	first := wired(t, "web", 3)
	talk(t, first)
	ready(t, "nsa/web", "pp/web")
	balanced(t, first)
	unbroken := keepPinging(t, first)
	kubectl(t, "scale", "deployment/web", "--replicas=6")
	six := wired(t, "web", 6)
	unbroken()
	talk(t, six)
	for _, a := range first {
		if !slices.ContainsFunc(six, func(b v1alpha1.NamespaceAttachment) bool { return b.UID == a.UID && ipOf(a) == ipOf(b) }) {
			t.Errorf("%s did not stay", a.Name)
		}
	}
	balanced(t, six)
	kubectl(t, "rollout", "restart", "deployment/web")
	kubectl(t, "rollout", "status", "deployment/web", "--timeout=90s")
	rolled := wired(t, "web", 6)
	talk(t, rolled)
	for _, a := range rolled {
		if slices.ContainsFunc(six, func(b v1alpha1.NamespaceAttachment) bool { return b.UID == a.UID }) {
			t.Errorf("%s is of a pod that is gone", a.Name)
		}
	}
	balanced(t, rolled)
	kubectl(t, "scale", "deployment/web", "--replicas=0")
	wired(t, "web", 0)
	for _, node := range []string{cluster.Worker, cluster.Worker2} {
		netlab.Eventually(t, patience, "no pod's link on "+node, func() error {
			out, err := attempt(node, "ip -br link show group 1346525441 type veth")
			if err == nil && out != "" {
				err = fmt.Errorf("left:\n%s", out)
			}
			return err
		})
	}
	expect(t, "nsa", "web", v1alpha1.ConditionReady, "False Pending")
}

// keepPinging has one pod ping another of its node until the returned function
// says that nothing was lost.
func keepPinging(t *testing.T, list []v1alpha1.NamespaceAttachment) (unbroken func()) {
	t.Helper()
	var from, to v1alpha1.NamespaceAttachment
	for i, a := range list {
		for _, b := range list[:i] {
			if a.Status.NodeName == b.Status.NodeName {
				from, to = a, b
			}
		}
	}
	ping := cluster.Command(context.Background(), from.Status.NodeName, "sh", "-ec",
		fmt.Sprintf("ip netns exec %s timeout -s INT 60 ping -n -q -i 0.1 %s", from.Status.Interface.Netns, ipOf(to)))
	var out strings.Builder
	ping.Stdout = &out
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		_, _ = attempt(from.Status.NodeName, "pkill -INT -x ping")
		_ = ping.Wait()
		if !strings.Contains(out.String(), " 0% packet loss") {
			t.Errorf("%s to %s: %s", from.Name, to.Name, out.String())
		}
	}
}

// balanced: the ports of each node, one and a range, lead to every pod there.
func balanced(t *testing.T, list []v1alpha1.NamespaceAttachment) {
	t.Helper()
	pods := map[string][]string{}
	for _, a := range list {
		pods[a.Status.NodeName] = append(pods[a.Status.NodeName], a.Spec.Target.Pod.Name)
	}
	for node, names := range pods {
		for _, port := range []int{20090, 8001} {
			answerAll(t, names, nodeIP(t, node), port)
		}
	}
}

// answerAll: each of the pods answers on a port sooner or later.
func answerAll(t *testing.T, names []string, ip string, port int) {
	t.Helper()
	answered := map[string]bool{}
	netlab.Eventually(t, patience, fmt.Sprintf("answers of all of %v on %s:%d", names, ip, port), func() error {
		out, err := attempt(cluster.ControlPlane, fmt.Sprintf("for i in $(seq 20); do curl -sS --max-time 2 http://%s:%d; echo; done", ip, port))
		for _, line := range strings.Split(out, "\n") {
			if name, _, ok := strings.Cut(line, " (you are "); ok {
				answered[name] = true
			}
		}
		if err == nil && len(answered) != len(names) {
			err = fmt.Errorf("answers of %v", answered)
		}
		return err
	})
}

// TestNamedPod: an attachment that was there before its pod; the pod deleted and
// back, its sandbox stopped, its node rebooted: the same address and MAC each time,
// and the way back to it.
func TestNamedPod(t *testing.T) {
	l := newLab(t, network("named", "10.81.0.0/24", ""), podAttachment("db", "db-0", "named"), publish("db", "db", 20091, 8001),
		attachment("client", cluster.Worker, "named"))
	expect(t, "nsa", "db", v1alpha1.ConditionAccepted, "Unknown Pending")
	l.add(workload("StatefulSet", "db", 1, onWorker))
	ready(t, "nsa/db", "pp/db", "nsa/client")
	first := *get[v1alpha1.NamespaceAttachment](t, "nsa", "db")
	same := func(what string) {
		t.Helper()
		netlab.Eventually(t, patience, what, func() error {
			now, err := try[v1alpha1.NamespaceAttachment]("nsa", "db")
			if err != nil {
				return err
			}
			pod, err := try[corev1.Pod]("pod", "db-0")
			if err == nil && now.Status.PodUID != string(pod.UID) {
				err = fmt.Errorf("of pod %s, not %s", now.Status.PodUID, pod.UID)
			}
			return err
		})
		curl(t, cluster.Worker2, "http://"+nodeIP(t, cluster.Worker)+":20091", "db-0")
		ready(t, "nsa/db", "pp/db")
		ping(t, cluster.Worker, "client", ipOf(first))
		now := *get[v1alpha1.NamespaceAttachment](t, "nsa", "db")
		if ipOf(now) != ipOf(first) || now.Status.MACAddress != first.Status.MACAddress {
			t.Errorf("%s: had %s %s and has %s %s", what, ipOf(first), first.Status.MACAddress, ipOf(now), now.Status.MACAddress)
		}
		asMade(t, now)
	}
	same("wired")
	kubectl(t, "delete", "pod", "db-0")
	same("pod deleted and back")
	if _, err := kind.StopSandbox(t.Context(), cluster.Worker, get[v1alpha1.NamespaceAttachment](t, "nsa", "db").Status.PodUID); err != nil {
		t.Fatal(err)
	}
	netlab.Eventually(t, patience, "another namespace", func() error {
		now, err := try[v1alpha1.NamespaceAttachment]("nsa", "db")
		if err == nil && (now.Status.Interface == nil || now.Status.Interface.Netns == first.Status.Interface.Netns) {
			err = fmt.Errorf("%+v", now.Status)
		}
		return err
	})
	same("sandbox stopped")
	kubectl(t, "-n", "patchbay-system", "delete", "pod", agentPod(t, cluster.Worker))
	agentPod(t, cluster.Worker)
	same("agent restarted")
	if err := kind.Restart(t.Context(), cluster.Worker); err != nil {
		t.Fatal(err)
	}
	same("node rebooted")
	kubectl(t, "scale", "statefulset/db", "--replicas=0")
	expect(t, "nsa", "db", v1alpha1.ConditionReady, "False PodNotRunning")
	if now := get[v1alpha1.NamespaceAttachment](t, "nsa", "db"); ipOf(*now) != ipOf(first) {
		t.Errorf("without its pod it has %v", now.Status.Addresses)
	}
	on(t, cluster.Worker, "test -z \"$(ip -br link show group 1346525441 type veth | grep "+first.Status.HostInterface.Name+")\"")
	kubectl(t, "scale", "statefulset/db", "--replicas=1")
	same("scaled to none and back")
}

// TestHostNetworkPod: a pod that uses its node's network is refused.
func TestHostNetworkPod(t *testing.T) {
	newLab(t, network("host", "10.82.0.0/24", ""), workload("Deployment", "host", 1, "hostNetwork: true,"), selected("host", "host", "host"))
	netlab.Eventually(t, patience, "a child", func() error {
		if len(children(t, "host")) != 1 {
			return fmt.Errorf("%d children", len(children(t, "host")))
		}
		return nil
	})
	child := children(t, "host")[0]
	expect(t, "nsa", child.Name, v1alpha1.ConditionAccepted, "False Unsupported")
	expect(t, "nsa", "host", v1alpha1.ConditionReady, "False Unsupported")
}

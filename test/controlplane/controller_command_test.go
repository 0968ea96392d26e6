package controlplane

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// replica is a process of `patchbay controller`.
type replica struct {
	*agent
	metrics, probes string
}

func (l *lab) replica(name string) *replica {
	l.Helper()
	r := &replica{metrics: freeAddress(l.T), probes: freeAddress(l.T)}
	r.agent = start(l.T, "replica "+name, exec.Command(os.Args[0], "controller", "--kubeconfig", controllerKubeconfig(l.T), "--leader-election-namespace", systemNamespace,
		"--metrics-bind-address", r.metrics, "--health-probe-bind-address", r.probes))
	return r
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func controllerKubeconfig(t *testing.T) string {
	t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
		Impersonate: controllerUser.UserName, ImpersonateGroups: controllerUser.Groups}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// page is what a replica serves, or why it does not.
func page(address, path string) (string, error) {
	answer, err := http.Get("http://" + address + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), err
}

func (r *replica) ready() string {
	_, err1 := page(r.probes, "/healthz")
	_, err2 := page(r.probes, "/readyz")
	if err := errors.Join(err1, err2); err != nil {
		return err.Error()
	}
	return ""
}

// leads: only a leader runs reconcilers.
func (r *replica) leads() bool { return strings.Contains(r.Log(), "Starting workers") }

// TestControllerCommand: two replicas are ready, one acts, and the other as soon
// as that one ends.
func TestControllerCommand(t *testing.T) {
	l := newLab(t, "command")
	l.stop()
	lease := &unstructured.Unstructured{}
	lease.SetGroupVersionKind(schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"})
	lease.SetNamespace(systemNamespace)
	lease.SetName("patchbay-controller")
	removeAfter(t, lease)
	first := l.replica("first")
	l.until("the first leads", func() string {
		if !first.leads() {
			return "it does not: " + first.ready()
		}
		return first.ready()
	})
	second := l.replica("second")
	l.until("the second is ready", second.ready)
	w1 := l.node("w1").Name
	l.bound(l.attachment("net1", w1, ""), w1)
	metrics, err := page(first.metrics, "/metrics")
	for _, want := range []string{"patchbay_bindings_total 1", `patchbay_status_writes_total{kind="NamespaceAttachment"} 1`, "patchbay_nodes_not_ready 0"} {
		if err != nil || !strings.Contains(metrics, want) {
			t.Errorf("%v, no %s in the metrics", err, want)
		}
	}
	if second.leads() {
		t.Error("both replicas lead")
	}
	first.stop()
	l.bound(l.attachment("net2", w1, ""), w1)
	if !second.leads() {
		t.Error("nobody leads")
	}
	if text := first.Log(); strings.Contains(text, "forbidden") {
		t.Errorf("its role lacks a right:\n%s", text)
	}
}

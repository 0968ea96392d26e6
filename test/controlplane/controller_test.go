package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// quick are the controller's times, shortened.
var quick = controllers.Options{
	NodeGrace:      2 * time.Second,
	ReferenceGrace: 2500 * time.Millisecond,
	RollupDelay:    50 * time.Millisecond,
	RollupInterval: time.Second,
}

// lab is a controller and a corner of the cluster for one test: a Kubernetes
// namespace, and nodes that bear the test's name as their label.
type lab struct {
	*testing.T
	client.Client
	name   string
	writes *writes
	stop   func()
}

// newLab starts a controller. At the end, all that the test made is gone before
// the controller is.
func newLab(t *testing.T, name string, tune ...func(*controllers.Options)) *lab {
	t.Helper()
	o := quick
	for _, f := range tune {
		f(&o)
	}
	admin, err := client.New(config, client.Options{Scheme: controllers.ManagerOptions().Scheme})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, Client: admin, name: name}
	l.writes, l.stop = startController(t, o)
	t.Cleanup(l.clear)
	ensureNamespace(t, name)
	return l
}

// restart replaces the controller by another.
func (l *lab) restart() {
	l.Helper()
	l.stop()
	l.writes, l.stop = startController(l.T, quick)
	l.Cleanup(l.clear)
}

// startController runs a controller until the end of the test or the call of
// stop.
func startController(t *testing.T, options controllers.Options) (w *writes, stop func()) {
	t.Helper()
	ctrllog.SetLogger(logr.Discard()) // for code without a logger of its own
	w = &writes{}
	grantController(t)
	c := rest.CopyConfig(config)
	c.QPS = -1
	c.Impersonate = controllerUser
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counter{w, next} })
	o := controllers.ManagerOptions()
	o.Metrics.BindAddress = "0"
	skip := true
	o.Controller.SkipNameValidation = &skip
	o.Logger = logr.FromSlogHandler(slog.NewTextHandler(t.Output(), nil))
	mgr, err := manager.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	options.Metrics = prometheus.NewRegistry()
	if err := controllers.Setup(mgr, options); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the controller ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return w, stop
}

// controllerUser is the service account of the controller: it has the rights
// of its roles alone here, as everywhere.
var controllerUser = rest.ImpersonationConfig{
	UserName: "system:serviceaccount:" + systemNamespace + ":patchbay-controller",
	Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"},
}

func grantController(t *testing.T) {
	t.Helper()
	ensureNamespace(t, systemNamespace)
	for _, u := range documents(t, "../../config/rbac/controller.yaml") {
		apply(t, u)
	}
}

// writes are the requests of a controller that change something.
type writes struct {
	mutex sync.Mutex
	list  []string
}

type counter struct {
	*writes
	next http.RoundTripper
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		c.mutex.Lock()
		path := strings.TrimPrefix(r.URL.Path, "/apis/patchbay.dev/v1alpha1/")
		c.list = append(c.list, r.Method+" "+path)
		c.mutex.Unlock()
	}
	return c.next.RoundTrip(r)
}

func (w *writes) all() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.list)
}

// of are the writes whose path contains a text; Events do not count.
func (w *writes) of(part string) []string {
	var out []string
	for _, entry := range w.all() {
		if strings.Contains(entry, part) && !strings.Contains(entry, "events.k8s.io") {
			out = append(out, entry)
		}
	}
	return out
}

// until waits until check finds nothing wrong.
func (l *lab) until(what string, check func() string) {
	l.Helper()
	netlab.Eventually(l.T, 20*time.Second, what, func() error {
		if wrong := check(); wrong != "" {
			return errors.New(wrong)
		}
		return nil
	})
}

// during wants check to find nothing wrong for a while.
func (l *lab) during(d time.Duration, what string, check func() string) {
	l.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if wrong := check(); wrong != "" {
			l.Fatalf("%s: %s", what, wrong)
		}
	}
}

// make creates an object, until the end of the test.
func (l *lab) make(o client.Object) {
	l.Helper()
	labels := maps.Clone(o.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels["lab"] = l.name
	o.SetLabels(labels)
	if err := l.Create(testContext(l.T), o); err != nil {
		l.Errorf("create %s: %v", o.GetName(), err)
	}
}

// remove deletes an object as a user would.
func (l *lab) remove(o client.Object) {
	l.Helper()
	if err := l.Delete(testContext(l.T), o); err != nil {
		l.Fatalf("delete %s: %v", o.GetName(), err)
	}
}

// clear deletes all that the test made, and waits until it is gone.
func (l *lab) clear() {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	inLab, here := client.MatchingLabels{"lab": l.name}, client.InNamespace(l.name)
	l.deleteAll(ctx, &v1alpha1.PortPublish{}, here)
	l.deleteAll(ctx, &v1alpha1.NamespaceAttachment{}, here)
	l.deleteAll(ctx, &corev1.Pod{}, here, client.GracePeriodSeconds(0))
	l.deleteAll(ctx, &v1alpha1.BridgeNetwork{}, inLab)
	l.deleteAll(ctx, &corev1.Node{}, inLab)
	var networks v1alpha1.BridgeNetworkList
	var bridges v1alpha1.NodeBridgeList
	netlab.Eventually(l.T, deadline, "networks and NodeBridges go", func() error {
		err := errors.Join(l.List(ctx, &networks), l.List(ctx, &bridges))
		if left := len(networks.Items) + len(bridges.Items); err == nil && left > 0 {
			err = fmt.Errorf("%d are left", left)
		}
		return err
	})
}

func (l *lab) deleteAll(ctx context.Context, o client.Object, of ...client.DeleteAllOfOption) {
	l.Helper()
	if err := l.DeleteAllOf(ctx, o, of...); err != nil {
		l.Errorf("delete each %T: %v", o, err)
	}
}

// edit changes an object as a user would.
func (l *lab) edit(o client.Object, change func()) {
	l.Helper()
	ctx := testContext(l.T)
	if err := l.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		l.Fatal(err)
	}
	before := o.DeepCopyObject().(client.Object)
	change()
	if err := l.Patch(ctx, o, client.MergeFrom(before)); err != nil {
		l.Fatalf("edit %s: %v", o.GetName(), err)
	}
}

// node makes a node that is Ready.
func (l *lab) node(name string, labels ...string) *corev1.Node {
	l.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.name + "-" + name, Labels: map[string]string{"lab": l.name}}}
	for _, label := range labels {
		n.Labels[label] = "yes"
	}
	l.make(n)
	l.setReady(n, corev1.ConditionTrue, time.Now())
	return n
}

// setReady writes a node's Ready condition as kubelet and node controller do.
func (l *lab) setReady(n *corev1.Node, status corev1.ConditionStatus, since time.Time) {
	l.Helper()
	n.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.NewTime(since), LastHeartbeatTime: metav1.NewTime(since),
	}}
	body := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":%q,"lastTransitionTime":%q,"lastHeartbeatTime":%q}]}}`,
		status, since.UTC().Format(time.RFC3339), since.UTC().Format(time.RFC3339)))
	if err := l.Status().Patch(testContext(l.T), n, body); err != nil {
		l.Fatalf("patch node %s: %v", n.Name, err)
	}
}

// network makes a network on the lab's nodes that any namespace may use.
func (l *lab) network(name string, labels ...string) *v1alpha1.BridgeNetwork {
	l.Helper()
	n := l.newNetwork(name, labels...)
	l.make(n)
	return n
}

func (l *lab) newNetwork(name string, labels ...string) *v1alpha1.BridgeNetwork {
	selector := map[string]string{"lab": l.name}
	for _, label := range labels {
		selector[label] = "yes"
	}
	return &v1alpha1.BridgeNetwork{
		ObjectMeta: metav1.ObjectMeta{Name: l.name + "-" + name},
		Spec: v1alpha1.BridgeNetworkSpec{
			NodeSelector:      &metav1.LabelSelector{MatchLabels: selector},
			Subnets:           []v1alpha1.Subnet{"10.68.0.0/16"},
			AllowedNamespaces: &v1alpha1.AllowedNamespaces{From: v1alpha1.FromAll},
		},
	}
}

func (l *lab) newAttachment(name, node, network string) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.name},
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target:  v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name), NodeName: node}},
			Network: network,
		},
	}
}

func (l *lab) attachment(name, node, network string) *v1alpha1.NamespaceAttachment {
	l.Helper()
	a := l.newAttachment(name, node, network)
	l.make(a)
	return a
}

func (l *lab) newPublish(name, attachment string) *v1alpha1.PortPublish {
	return &v1alpha1.PortPublish{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.name},
		Spec:       v1alpha1.PortPublishSpec{Attachment: attachment, Ports: []v1alpha1.PublishedPort{{HostPort: 80}}},
	}
}

func (l *lab) publish(name, attachment string) *v1alpha1.PortPublish {
	l.Helper()
	p := l.newPublish(name, attachment)
	l.make(p)
	return p
}

// conditions of an object as "Accepted": "True Accepted".
func conditionsOf(o client.Object) map[string]string {
	out := map[string]string{}
	for _, c := range v1alpha1.ConditionsOf(o) {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

func nodeNameOf(o client.Object) string {
	switch o := o.(type) {
	case *v1alpha1.NamespaceAttachment:
		return o.Status.NodeName
	case *v1alpha1.PortPublish:
		return o.Status.NodeName
	}
	return ""
}

// wants waits for a condition of an object.
func (l *lab) wants(o client.Object, kind, want string) {
	l.Helper()
	l.until(fmt.Sprintf("%T %s", o, o.GetName()), func() string {
		if err := l.Get(testContext(l.T), client.ObjectKeyFromObject(o), o); err != nil {
			return err.Error()
		}
		if got := conditionsOf(o)[kind]; got != want {
			return fmt.Sprintf("%s is %q, want %q", kind, got, want)
		}
		return ""
	})
}

// bound waits until an object is accepted and bound.
func (l *lab) bound(o client.Object, node string) {
	l.Helper()
	l.wants(o, "Accepted", "True Accepted")
	if got := nodeNameOf(o); got != node {
		l.Fatalf("%s is bound to %q, want %q", o.GetName(), got, node)
	}
}

// wroteOnce checks that each path was written by one request.
func (l *lab) wroteOnce(parts ...string) {
	l.Helper()
	for _, part := range parts {
		if got := l.writes.of(part); len(got) != 1 {
			l.Errorf("%s: %d writes, want one: %v", part, len(got), got)
		}
	}
}

// message of a condition.
func message(o client.Object, kind string) string {
	return meta.FindStatusCondition(v1alpha1.ConditionsOf(o), kind).Message
}

// agent writes a status as the agent of a node does.
func (l *lab) agent(o client.Object, status map[string]any, ready, reason string) {
	l.Helper()
	status = maps.Clone(status)
	if status == nil {
		status = map[string]any{}
	}
	status["conditions"] = []any{condition("Ready", ready, reason)}
	applyStatus(l.T, object(kindOf(o), o.GetNamespace(), o.GetName(), nil), v1alpha1.FieldManagerAgent, status)
}

func kindOf(o client.Object) string {
	name := fmt.Sprintf("%T", o)
	return name[strings.LastIndex(name, ".")+1:]
}

// events are the Events about an object, as "Warning NodeNotReady", sorted.
func (l *lab) events(o client.Object) []string {
	l.Helper()
	var list corev1.EventList
	if err := l.List(testContext(l.T), &list); err != nil {
		l.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.InvolvedObject.UID == o.GetUID() {
			out = append(out, e.Type+" "+e.Reason)
		}
	}
	slices.Sort(out)
	return out
}

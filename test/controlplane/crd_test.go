package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// TestCRDs: a schema that is not structural is a condition; a rule that does not
// compile or costs too much would have stopped the installation.
func TestCRDs(t *testing.T) {
	var list apiextensionsv1.CustomResourceDefinitionList
	if err := api.List(testContext(t), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 4 {
		t.Errorf("%d CRDs, want 4", len(list.Items))
	}
	for _, def := range list.Items {
		got := map[apiextensionsv1.CustomResourceDefinitionConditionType]apiextensionsv1.ConditionStatus{}
		for _, c := range def.Status.Conditions {
			got[c.Type] = c.Status
		}
		want := map[apiextensionsv1.CustomResourceDefinitionConditionType]apiextensionsv1.ConditionStatus{
			apiextensionsv1.NamesAccepted: apiextensionsv1.ConditionTrue,
			apiextensionsv1.Established:   apiextensionsv1.ConditionTrue,
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("conditions of %s, want -, got +:\n%s", def.Name, diff)
		}
	}
}

// TestNoWarnings: kubectl prints what the API server warns of, a pattern that it
// does not know or a version that will go.
func TestNoWarnings(t *testing.T) {
	var said warnings
	listening := rest.CopyConfig(config)
	listening.WarningHandler = &said
	c, err := client.New(listening, client.Options{Scheme: scheme()})
	if err != nil {
		t.Fatal(err)
	}
	var list apiextensionsv1.CustomResourceDefinitionList
	if err := c.List(testContext(t), &list); err != nil {
		t.Fatal(err)
	}
	for _, def := range list.Items {
		if err := c.Update(testContext(t), &def, client.DryRunAll); err != nil {
			t.Error(err)
		}
	}
	for _, o := range fullObjects() {
		if err := c.Create(testContext(t), o, client.DryRunAll); err != nil {
			t.Error(err)
		}
	}
	if len(said) > 0 {
		t.Errorf("the API server warns: %q", said)
	}
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

// TestDiscovery has the words that kubectl takes.
func TestDiscovery(t *testing.T) {
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range list.APIResources {
		got[r.Name] = fmt.Sprintf("%s %s namespaced=%t %v %v", r.Kind, r.SingularName, r.Namespaced, r.ShortNames, r.Categories)
	}
	want := map[string]string{
		"bridgenetworks":              "BridgeNetwork bridgenetwork namespaced=false [bnet] [patchbay]",
		"bridgenetworks/status":       "BridgeNetwork  namespaced=false [] []",
		"namespaceattachments":        "NamespaceAttachment namespaceattachment namespaced=true [nsa] [patchbay]",
		"namespaceattachments/status": "NamespaceAttachment  namespaced=true [] []",
		"nodebridges":                 "NodeBridge nodebridge namespaced=false [nbr] [patchbay]",
		"nodebridges/status":          "NodeBridge  namespaced=false [] []",
		"portpublishes":               "PortPublish portpublish namespaced=true [pp] [patchbay]",
		"portpublishes/status":        "PortPublish  namespaced=true [] []",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// TestColumns is what kubectl get -o wide prints of objects with a full status.
func TestColumns(t *testing.T) {
	want := map[string]map[string]any{
		"bridgenetworks": {
			"Name": "columns", "Bridge": "br-columns", "Subnets": `["10.68.0.0/24","fd00::/64"]`, "Gateway": "Bridge",
			"Accepted": "True", "Ready": "True", "Nodes": 2.0, "Selected": 3.0, "Reason": "Programmed",
		},
		"namespaceattachments": {
			"Name": "columns", "Netns": "ns1", "Pod": nil, "Network": "red", "Interface": "eth0", "Addresses": `["10.68.0.101/24","fd00::65/64"]`,
			"Host-Interface": "veth1", "Attached": 1.0, "Selected": 2.0, "Node": "w1", "Accepted": "True", "Ready": "True", "Reason": "Programmed",
		},
		"portpublishes": {
			"Name": "columns", "Attachment": "net1", "Published": "*:8001/TCP->10.68.0.101:80, +1",
			"Node": "w1", "Accepted": "True", "Ready": "True", "Reason": "Programmed",
		},
		"nodebridges": {
			"Name": "columns.w1", "Network": "columns", "Node": "w1", "Bridge": "br-columns", "MTU": 1500.0,
			"Ready": "True", "Reason": "Programmed",
		},
	}
	for _, o := range fullObjects() {
		write(t, o)
	}
	for resource, cells := range want {
		t.Run(resource, func(t *testing.T) {
			got := table(t, resource)
			delete(got, "Age")
			if diff := gocmp.Diff(cells, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// table is the only row that kubectl would print of a resource, by column.
func table(t *testing.T, resource string) map[string]any {
	t.Helper()
	var out metav1.Table
	getJSON(t, "/apis/"+v1alpha1.GroupVersion.String()+"/"+resource, "application/json;as=Table;v=v1;g=meta.k8s.io", &out)
	if len(out.Rows) != 1 {
		t.Fatalf("%d rows, want 1", len(out.Rows))
	}
	row := map[string]any{}
	for i, c := range out.ColumnDefinitions {
		row[c.Name] = out.Rows[0].Cells[i]
	}
	return row
}

func getJSON(t *testing.T, path, accept string, into any) {
	t.Helper()
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.JoinPath(config.Host, path)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	answer, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s %v\n%s", path, answer.Status, err, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatal(err)
	}
}

// TestFieldSelectors: an agent lists the objects that are bound to its node, and the
// controller the ones that are bound to none.
func TestFieldSelectors(t *testing.T) {
	for _, kind := range []string{"NamespaceAttachment", "PortPublish"} {
		t.Run(kind, func(t *testing.T) {
			for _, node := range []string{"w1", "w2", ""} {
				o := object(kind, metav1.NamespaceDefault, "on-"+node+"x", minimal(kind))
				create(t, o)
				if node != "" {
					bind(t, o, node)
				}
			}
			checkList(t, kind, client.MatchingFields{"status.nodeName": "w1"}, "on-w1x")
			checkList(t, kind, client.MatchingFields{"status.nodeName": ""}, "on-x")
		})
	}
	t.Run("NodeBridge", func(t *testing.T) {
		for _, node := range []string{"w1", "w2"} {
			create(t, object("NodeBridge", "", "red."+node, map[string]any{"spec": map[string]any{"network": "red", "nodeName": node}}))
		}
		checkList(t, "NodeBridge", client.MatchingFields{"spec.nodeName": "w2"}, "red.w2")
	})
}

func checkList(t *testing.T, kind string, selector client.MatchingFields, want ...string) {
	t.Helper()
	list := emptyList(kind)
	if err := api.List(testContext(t), list, selector); err != nil {
		t.Fatalf("list %v: %v", selector, err)
	}
	var got []string
	for _, o := range list.Items {
		got = append(got, o.GetName())
	}
	if !slices.Equal(got, want) {
		t.Errorf("list %v: %q, want %q", selector, got, want)
	}
}

func emptyList(kind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
	return list
}

// TestWatchFollowsBinding: to an agent, an object that is bound to its node
// appears, and one that is bound away is deleted.
func TestWatchFollowsBinding(t *testing.T) {
	o := create(t, object("NamespaceAttachment", metav1.NamespaceDefault, "moving", minimal("NamespaceAttachment")))
	ctx := testContext(t)
	w, err := api.Watch(ctx, emptyList("NamespaceAttachment"), client.MatchingFields{"status.nodeName": "w1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	bind(t, o, "w1")
	nextEvent(ctx, t, w, watch.Added)
	bind(t, o, "w2")
	nextEvent(ctx, t, w, watch.Deleted)
}

func nextEvent(ctx context.Context, t *testing.T, w watch.Interface, want watch.EventType) {
	t.Helper()
	select {
	case e := <-w.ResultChan():
		if e.Type != want {
			t.Fatalf("event %s, want %s: %v", e.Type, want, e.Object)
		}
	case <-ctx.Done():
		t.Fatalf("no event, want %s", want)
	}
}

func bind(t *testing.T, o *unstructured.Unstructured, node string) {
	t.Helper()
	applyStatus(t, o, v1alpha1.FieldManagerController, map[string]any{"nodeName": node})
}

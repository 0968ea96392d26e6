package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

const (
	network    = "apiVersion: patchbay.dev/v1alpha1\nkind: BridgeNetwork\nmetadata: {name: red}\n"
	attachment = "apiVersion: patchbay.dev/v1alpha1\nkind: NamespaceAttachment\nmetadata: {name: net1}\nspec: {target: {netns: {name: net1}}, network: red}\n"
	publish    = "apiVersion: patchbay.dev/v1alpha1\nkind: PortPublish\nmetadata: {name: web, namespace: lab}\nspec: {attachment: net1, ports: [{hostPort: 80}]}\n"
)

func readText(t *testing.T, text string) ([]Document, error) {
	t.Helper()
	return Read([]string{Stdin}, strings.NewReader(text), validator(t))
}

func names(docs []Document) []string {
	var out []string
	for _, d := range docs {
		k := keyOf(d.Object)
		out = append(out, filepath.Base(d.File)+" "+strings.Trim(k.kind+"/"+k.namespace+"/"+k.name, "/"))
	}
	return out
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadOrder(t *testing.T) {
	docs, err := readText(t, "# a comment\n---\n"+attachment+"--- # next\n"+network+"---\n\n---\n"+publish)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"- NamespaceAttachment/default/net1", "- BridgeNetwork//red", "- PortPublish/lab/web"}
	if diff := gocmp.Diff(want, names(docs)); diff != "" {
		t.Error(diff)
	}
}

func TestReadDefaults(t *testing.T) {
	docs, err := readText(t, network+"status: {nodes: {selected: 7}, nonsense: true}\n")
	if err != nil {
		t.Fatal(err)
	}
	n := docs[0].Object.(*v1alpha1.BridgeNetwork)
	if n.Spec.Gateway.Mode != v1alpha1.GatewayBridge || n.Spec.Isolation.Ingress != v1alpha1.IngressPublishedOnly || n.Spec.Bridge.Lifecycle != v1alpha1.Managed {
		t.Errorf("defaults are missing: %+v", n.Spec)
	}
	if n.Status.Nodes.Selected != 0 || n.Status.Conditions != nil {
		t.Errorf("status is not ignored: %+v", n.Status)
	}
	if n.Generation != 1 {
		t.Errorf("generation %d, want 1", n.Generation)
	}
}

func TestReadList(t *testing.T) {
	list := `{"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [
	 {"apiVersion": "patchbay.dev/v1alpha1", "kind": "BridgeNetwork", "metadata": {"name": "red", "uid": "1", "resourceVersion": "7", "generation": 4, "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": []}},
	 {"apiVersion": "patchbay.dev/v1alpha1", "kind": "BridgeNetwork", "metadata": {"name": "blue"}}]}`
	docs, err := readText(t, list)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]string{"- BridgeNetwork//red", "- BridgeNetwork//blue"}, names(docs)); diff != "" {
		t.Error(diff)
	}
	if o := docs[0].Object; o.GetUID() != "" || o.GetResourceVersion() != "" || o.GetGeneration() != 1 {
		t.Errorf("what a server sets was kept: %+v", o)
	}
}

func TestReadErrors(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"syntax", network + "---\nkind: [\n", []string{
			`-: yaml: line 5: did not find expected node content`}},
		{"no object", "- a\n", []string{
			`-: line 1: must be an object with apiVersion, kind and metadata`}},
		{"duplicate keys", network + "---\n" + network + "spec:\n  bridge: {mtu: 1500}\n  bridge: {mtu: 1600}\n", []string{
			`-: BridgeNetwork/red: spec.bridge: is set twice, in lines 9 and 10; keep one of them`}},
		{"unseparated documents", network + "--- {kind: PortPublish}\n", []string{
			`-: line 4: put --- on a line of its own between documents`}},
		{"no apiVersion", "kind: BridgeNetwork\nmetadata: {name: red}\n", []string{
			`-: BridgeNetwork/red: apiVersion: must be set to patchbay.dev/v1alpha1`}},
		{"another API", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", []string{
			`-: Pod/a: apiVersion: must be patchbay.dev/v1alpha1, with kind one of BridgeNetwork, NamespaceAttachment, PortPublish (is "v1")`}},
		{"another kind", "apiVersion: patchbay.dev/v1alpha1\nkind: Bridge\nmetadata: {name: a}\n", []string{
			`-: Bridge/a: kind: must be one of BridgeNetwork, NamespaceAttachment, PortPublish (is "Bridge")`}},
		{"NodeBridge", "apiVersion: patchbay.dev/v1alpha1\nkind: NodeBridge\nmetadata: {name: red.n}\n", []string{
			`-: NodeBridge/red.n: kind: is written by the system; write a BridgeNetwork instead`}},
		{"no name", "apiVersion: patchbay.dev/v1alpha1\nkind: BridgeNetwork\n", []string{
			`-: BridgeNetwork: metadata.name: must be set`}},
		{"generateName", "apiVersion: patchbay.dev/v1alpha1\nkind: BridgeNetwork\nmetadata: {generateName: red-}\n", []string{
			`-: BridgeNetwork: metadata.name: must be set: metadata.generateName only works in a cluster`}},
		{"bad name", strings.Replace(publish, "web", "Web", 1), []string{
			`-: PortPublish/Web: metadata.name: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*') (is "Web")`}},
		{"namespace of a cluster's kind", strings.Replace(network, "red}", "red, namespace: lab}", 1), []string{
			`-: BridgeNetwork/red: metadata.namespace: must be left out: the kind belongs to the whole cluster (is "lab")`}},
		{"unknown metadata", strings.Replace(network, "red}", "red, label: {}}", 1), []string{
			`-: BridgeNetwork/red: metadata.label: unknown field; leave it out or correct its name`}},
		{"unknown top level", network + "specs: {}\n", []string{
			`-: BridgeNetwork/red: specs: unknown field; leave it out or correct its name`}},
		{"label", strings.Replace(network, "red}", "red, labels: {a: -}}", 1), []string{
			`-: BridgeNetwork/red: metadata.labels: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?') (is "-")`}},
		{"twice", network + "---\n" + network, []string{
			`-: BridgeNetwork/red: is defined twice in this file; keep one of them`}},
		{"list of nothing", "apiVersion: v1\nkind: List\nitems: [1]\n", []string{
			`-: List: items[0]: must be an object`}},
		{"all errors at once", network + "spec: {bridge: {mtu: 1}}\n---\n" + strings.Replace(publish, "80", "0", 1), []string{
			`-: BridgeNetwork/red: spec.bridge.mtu: should be greater than or equal to 1280 (is 1)`,
			`-: PortPublish/web: spec.ports[0].hostPort: should be greater than or equal to 1 (is 0)`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs, err := readText(t, c.text)
			if diff := gocmp.Diff(c.want, lines(err)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if docs != nil {
				t.Errorf("%d documents with an error", len(docs))
			}
			if e := (*Error)(nil); err != nil && !errors.As(err, &e) {
				t.Errorf("%T is no *Error", err)
			}
		})
	}
}

func TestReadFolder(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "b.yaml"), network)
	write(t, filepath.Join(folder, "a.yml"), attachment)
	write(t, filepath.Join(folder, "c.json"), `{"apiVersion": "patchbay.dev/v1alpha1", "kind": "BridgeNetwork", "metadata": {"name": "blue"}}`)
	for _, ignored := range []string{".b.yaml.swp", ".hidden.yaml", "b.yaml~", "#b.yaml#", "#b.yaml", "notes.txt", "b.yaml.orig"} {
		write(t, filepath.Join(folder, ignored), "not: [yaml")
	}
	if err := os.Mkdir(filepath.Join(folder, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "sub", "d.yaml"), publish)
	docs, err := Read([]string{folder}, nil, validator(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a.yml NamespaceAttachment/default/net1", "b.yaml BridgeNetwork//red", "c.json BridgeNetwork//blue"}
	if diff := gocmp.Diff(want, names(docs)); diff != "" {
		t.Error(diff)
	}
}

func TestReadFolderErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := Read([]string{"m"}, nil, validator(t)); err == nil || err.Error() != "m: no such file or directory" {
		t.Errorf("missing: %v", err)
	}
	if err := os.MkdirAll("m/x.yaml", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", "m/y.yaml"); err != nil {
		t.Fatal(err)
	}
	write(t, "m/a.yaml", network)
	write(t, "m/b.yaml", network)
	_, err := Read([]string{"m"}, nil, validator(t))
	want := []string{
		"m/x.yaml: is not a regular file",
		"m/y.yaml: no such file or directory",
		"m/b.yaml: BridgeNetwork/red: is defined in m/a.yaml already; keep one of them",
	}
	if diff := gocmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestReadEmpty(t *testing.T) {
	folder := t.TempDir()
	if _, err := Read([]string{folder}, nil, validator(t)); !errors.Is(err, ErrEmpty) || err.Error() != "no objects in "+folder {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := readText(t, "# nothing\n---\n"); !errors.Is(err, ErrEmpty) {
		t.Errorf("comments only: %v", err)
	}
}

// The README shows the samples, and people apply them, one by one or all.
func TestSamples(t *testing.T) {
	docs, err := Read([]string{"../../../config/samples"}, nil, validator(t))
	if err != nil {
		t.Fatal(err)
	}
	var networks []*v1alpha1.BridgeNetwork
	var attachments []*v1alpha1.NamespaceAttachment
	for _, d := range docs {
		switch o := d.Object.(type) {
		case *v1alpha1.BridgeNetwork:
			networks = append(networks, o)
		case *v1alpha1.NamespaceAttachment:
			attachments = append(attachments, o)
		}
	}
	w := accept.Local("here", networks, attachments)
	for _, d := range docs {
		var c metav1.Condition
		switch o := d.Object.(type) {
		case *v1alpha1.BridgeNetwork:
			c = accept.Network(o, w)
		case *v1alpha1.NamespaceAttachment:
			c = accept.Attachment(o, w)
		case *v1alpha1.PortPublish:
			c = accept.Publish(o, w)
		}
		if c.Status != metav1.ConditionTrue {
			t.Errorf("%s: %s: %s", d.File, d.Object.GetName(), c.Message)
		}
	}
	if len(networks) == 0 || len(attachments) == 0 {
		t.Error("no samples")
	}
}

func TestValidateUpdate(t *testing.T) {
	docs, err := readText(t, network+"spec: {bridge: {name: br1}}\n---\n"+strings.Replace(network, "red", "blue", 1))
	if err != nil {
		t.Fatal(err)
	}
	old := docs[0].Object
	updated := old.DeepCopyObject().(*v1alpha1.BridgeNetwork)
	updated.Spec.Subnets = []v1alpha1.Subnet{"10.68.0.0/24"}
	if err := validator(t).ValidateUpdate(updated, old); err != nil {
		t.Errorf("allowed change: %v", err)
	}
	updated.Spec.Bridge.Name = "br2"
	want := "BridgeNetwork/red: spec.bridge.name: is immutable: delete the network and create it anew"
	if err := validator(t).ValidateUpdate(updated, old); err == nil || err.Error() != want {
		t.Errorf("rename: %v", err)
	}
	if err := validator(t).ValidateUpdate(docs[1].Object, old); err == nil {
		t.Error("an object followed another one")
	}
}

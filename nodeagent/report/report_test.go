package report

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func attachment(ready metav1.Condition) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "net1"},
		Spec:       v1alpha1.NamespaceAttachmentSpec{Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "net1"}}, Network: "red"},
		Status: v1alpha1.NamespaceAttachmentStatus{
			Interface:     &v1alpha1.InterfaceStatus{Netns: "net1", Name: "eth0", Index: 2},
			HostInterface: &v1alpha1.InterfaceStatus{Name: "veth1", Index: 7},
			Addresses:     []v1alpha1.Subnet{"10.0.0.2/24"},
			Conditions:    []metav1.Condition{ready},
		},
	}
}

func condition(status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message}
}

func TestTable(t *testing.T) {
	network := &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "red"}, Spec: v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.0.0.0/24"}}}
	network.Status.Conditions = []metav1.Condition{condition(metav1.ConditionTrue, v1alpha1.ReasonProgrammed, "fine")}
	publish := &v1alpha1.PortPublish{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "web"}, Spec: v1alpha1.PortPublishSpec{Attachment: "net1"}}
	publish.Status.Published = []v1alpha1.PublishedStatus{{Protocol: v1alpha1.TCP, HostPort: 80, Target: "10.0.0.2:80"}, {Address: "fd00::9", Protocol: v1alpha1.TCP, HostPort: 80, Target: "[fd00::2]:80"}}
	publish.Status.Conditions = []metav1.Condition{condition(metav1.ConditionTrue, v1alpha1.ReasonProgrammed, "fine")}
	var b bytes.Buffer
	if err := Table(&b, []v1alpha1.Object{network, attachment(condition(metav1.ConditionFalse, v1alpha1.ReasonAddressConflict, "address 10.0.0.2 is taken")), publish}); err != nil {
		t.Fatal(err)
	}
	want := `NETWORK  BRIDGE  SUBNETS      GATEWAY   READY  REASON
red      br-red  10.0.0.0/24  10.0.0.1  True   Programmed

ATTACHMENT  NETNS  INTERFACE  HOST-INTERFACE  ADDRESSES    NETWORK  READY  REASON
lab/net1    net1   eth0 (2)   veth1 (7)       10.0.0.2/24  red      False  AddressConflict

PUBLISH  ATTACHMENT  PORTS                      TARGETS                   READY  REASON
lab/web  net1        *:80/TCP,[fd00::9]:80/TCP  10.0.0.2:80,[fd00::2]:80  True   Programmed

NamespaceAttachment lab/net1: address 10.0.0.2 is taken
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestReportWritesOnlyChanges shows that a record is written when its meaning
// changed, and that a condition keeps its transition time while its status
// stays.
func TestReportWritesOnlyChanges(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "objects")
	store := NewStore(folder)
	by := Node{Name: "node1", Backend: "iptables"}
	store.By(by)
	l := &Local{Store: store, Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	in := engine.Input{Attachment: attachment(metav1.Condition{}), Accepted: metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted}}
	in.Attachment.Status.Conditions = nil
	status := engine.Status{Owner: in.Owner(), Input: in, Ready: condition(metav1.ConditionTrue, v1alpha1.ReasonProgrammed, "fine"), Attachment: &in.Attachment.Status}
	file := filepath.Join(folder, "nsa.lab.net1.yaml")
	written := func() time.Time {
		t.Helper()
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	l.Report(status)
	first := written()
	l.Report(status)
	if again := written(); again != first {
		t.Error("the same status was written twice")
	}
	got, ok := store.Get(in.Owner()).(*v1alpha1.NamespaceAttachment)
	if !ok || len(got.Status.Conditions) != 2 || got.Status.Addresses[0] != "10.0.0.2/24" {
		t.Fatalf("record: %+v", got)
	}
	if got := NewStore(folder).WrittenBy(); got != by {
		t.Errorf("written by %+v, want %+v", got, by)
	}
	l.Removed(in.Owner())
	if left, err := os.ReadDir(filepath.Dir(folder)); err != nil || len(left) > 0 {
		t.Errorf("the last record leaves %v behind: %v", left, err)
	}
}

// TestDamagedRecords shows that a record that cannot be read is named and left
// out, whatever is wrong with it, and that the other records are read.
func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"no YAML":          func(file string) error { return os.WriteFile(file, []byte("spec: ["), 0o600) },
		"empty":            func(file string) error { return os.WriteFile(file, nil, 0o600) },
		"cut":              func(file string) error { return os.WriteFile(file, []byte("{\"spec\": {"), 0o600) },
		"unknown JSON":     func(file string) error { return os.WriteFile(file, []byte("{\"speck\": {}}"), 0o600) },
		"zeroes":           func(file string) error { return os.WriteFile(file, make([]byte, 4096), 0o600) },
		"unknown field":    func(file string) error { return os.WriteFile(file, []byte("speck: {}"), 0o600) },
		"another resource": func(file string) error { return os.WriteFile(file, []byte("metadata: {name: other}"), 0o600) },
		"a folder":         func(file string) error { return os.MkdirAll(filepath.Join(file, "x"), 0o700) },
	} {
		store := NewStore(t.TempDir())
		good := attachment(metav1.Condition{})
		file := filepath.Join(store.dir, "nsa.lab.broken.yaml")
		if err := errors.Join(store.Save(good), damage(file)); err != nil {
			t.Fatal(err)
		}
		records, damaged := store.Load()
		if len(records) != 1 || records[0].GetName() != good.Name {
			t.Errorf("%s: read %v", name, records)
		}
		if len(damaged) != 1 || !strings.Contains(damaged[0].Error(), file) {
			t.Fatalf("%s: damaged %v, want %s", name, damaged, file)
		}
		if err := SetAside(file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, damaged := store.Load(); len(damaged) > 0 {
			t.Errorf("%s: %v is read again", name, damaged)
		}
		for _, o := range []string{"broken", good.Name} {
			if err := store.Remove(netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: o}); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(store.dir); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
}

// TestRecordInYAML: a record in YAML is read like one in JSON.
func TestRecordInYAML(t *testing.T) {
	store := NewStore(t.TempDir())
	want := attachment(metav1.Condition{})
	data, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	file := store.file(engine.InputOf(want).Owner())
	if err := errors.Join(store.Save(want), os.WriteFile(file, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	fromYAML, damaged := store.Load()
	if err := store.Save(want); err != nil {
		t.Fatal(err)
	}
	fromJSON, _ := store.Load()
	if len(damaged) > 0 || !reflect.DeepEqual(fromYAML, fromJSON) {
		t.Errorf("from YAML %+v (%v), from JSON %+v", fromYAML, damaged, fromJSON)
	}
}

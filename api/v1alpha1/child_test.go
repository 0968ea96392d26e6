package v1alpha1

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestChildName(t *testing.T) {
	long := strings.Repeat("a", 63)
	dotted := strings.Repeat("a", 40) + "." + strings.Repeat("b", 22)
	for _, c := range []struct{ parent, of, want string }{
		{"web", "0a1b", "web-f47f40d943"},
		{strings.Repeat("a", 52), "0a1b", strings.Repeat("a", 52) + "-f47f40d943"},
		{long, "0a1b", strings.Repeat("a", 41) + "-7d3e74a05d-f47f40d943"},
		{dotted, "0a1b", strings.Repeat("a", 40) + "-d055d7a6bf-f47f40d943"},
	} {
		if got := ChildName(c.parent, c.of); got != c.want || len(got) > 63 {
			t.Errorf("child of %s is %s, want %s", c.parent, got, c.want)
		}
	}
	if ChildName(long, "a") == ChildName(long[1:]+"b", "a") || ChildName(long, "a") == ChildName(long, "b") {
		t.Error("two children have one name")
	}
}

func TestParent(t *testing.T) {
	owner := func(version, kind string, controller bool) metav1.ObjectMeta {
		return metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: "web", Controller: &controller}}}
	}
	v1 := GroupVersion.String()
	for name, c := range map[string]struct {
		o    metav1.Object
		want string
	}{
		"attachment":              {&NamespaceAttachment{ObjectMeta: owner(v1, "NamespaceAttachment", true)}, "web"},
		"publish":                 {&PortPublish{ObjectMeta: owner(v1, "PortPublish", true)}, "web"},
		"nobody's":                {&PortPublish{}, ""},
		"not controlled":          {&PortPublish{ObjectMeta: owner(v1, "PortPublish", false)}, ""},
		"of another kind of ours": {&PortPublish{ObjectMeta: owner(v1, "NamespaceAttachment", true)}, ""},
		"of a namesake elsewhere": {&PortPublish{ObjectMeta: owner("example.com/v1", "PortPublish", true)}, ""},
	} {
		if got := Parent(c.o); got != c.want {
			t.Errorf("%s: parent %q, want %q", name, got, c.want)
		}
	}
}

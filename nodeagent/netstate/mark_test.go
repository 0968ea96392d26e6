package netstate

import (
	"strings"
	"testing"
)

func TestMark(t *testing.T) {
	for _, test := range []struct {
		owner Owner
		want  string
	}{
		{Owner{Kind: OwnerNetwork, Name: "red"}, "patchbay:local:bnet:red"},
		{Owner{Kind: OwnerAttachment, Namespace: "lab", Name: "net1"}, "patchbay:local:nsa:lab/net1"},
	} {
		mark := Mark(SourceLocal, test.owner)
		if mark != test.want {
			t.Errorf("got %q, want %q", mark, test.want)
		}
		if s, o, ok := ParseMark(mark); !ok || s != SourceLocal || o != test.owner {
			t.Errorf("%q parses to %v %v %v", mark, s, o, ok)
		}
	}
}

func TestLongMarksFitAndDiffer(t *testing.T) {
	long := strings.Repeat("a", 300)
	one, other := Mark(SourceCluster, Owner{OwnerAttachment, long, "x"}), Mark(SourceCluster, Owner{OwnerAttachment, long, "y"})
	if len(one) != maxAlias || one == other {
		t.Errorf("%d bytes, %q and %q", len(one), one, other)
	}
	if s, _, ok := ParseMark(one); !ok || s != SourceCluster {
		t.Errorf("%q is not known as ours", one)
	}
}

func TestForeignAliases(t *testing.T) {
	for _, alias := range []string{"", "uplink", "patchbay", "patchbay:", "patchbay:local", "patchbay:local:nsa:", "patchbay:other:nsa:a/b", "patchbay is nice", HalfMade} {
		if _, _, ok := ParseMark(alias); ok {
			t.Errorf("%q is taken for ours", alias)
		}
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("patchbay:local:nsa:lab/net1")
	f.Add("patchbay:cluster:bnet:red")
	f.Fuzz(func(t *testing.T, alias string) {
		s, o, ok := ParseMark(alias)
		if ok && len(alias) <= maxAlias && o.Namespace != "" && Mark(s, o) != alias {
			t.Errorf("%q parses to %v %v, whose mark is %q", alias, s, o, Mark(s, o))
		}
	})
}

func TestLinkLocal(t *testing.T) {
	mac := MAC{0x02, 0x42, 0x0a, 0x44, 0x00, 0x65}
	if got := mac.LinkLocal().String(); got != "fe80::42:aff:fe44:65" {
		t.Errorf("got %s", got)
	}
}

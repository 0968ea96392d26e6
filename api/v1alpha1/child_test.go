package v1alpha1

import (
	"strings"
	"testing"
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

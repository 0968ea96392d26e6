package resolve

import (
	"slices"
	"testing"
)

func TestSome(t *testing.T) {
	many := slices.Repeat([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}, 2)
	if got := some(many); got != "a, b, c, d, e, f, g, h, 2 more" {
		t.Errorf("got %q", got)
	}
}

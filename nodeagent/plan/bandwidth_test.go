package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// unlimited takes a redirect to nowhere for a limit: what it leads there is
// dropped.
func unlimited(s netstate.Set) bool {
	redirect, _ := s[redirected].(netstate.Redirect)
	open := s[linkKey(netstate.End{Name: "ifb1"})] != nil && s[netstate.Shaper{Link: "ifb1"}.Key()] == nil
	return s[netstate.Shaper{Link: "veth1"}.Key()] == nil || redirect.To != "ifb1" || open
}

// TestUnlimitedIsNotActivated: what limits a port must be there before the port
// is up, and behind a redirect as well.
func TestUnlimitedIsNotActivated(t *testing.T) {
	up := Step{}
	for _, s := range diff(t, world(), netstate.Set{}, nil) {
		if s.Op == Activate && s.Key.Link == "veth1" {
			up = s
		}
	}
	for _, failed := range []netstate.Key{redirected, netstate.Shaper{Link: "veth1"}.Key(), netstate.Shaper{Link: "ifb1"}.Key(), linkKey(netstate.End{Name: "ifb1"})} {
		if !slices.Contains(Dependencies(up), failed) {
			t.Errorf("%s does not wait for %s", up.Key, failed)
		}
	}
	if slices.Contains(Dependencies(up), netstate.Shaper{Link: "br-red"}.Key()) {
		t.Errorf("%s waits for another link's", up.Key)
	}
}

// TestRedirectIsMadeAnewWithItsLink: a redirect through a link that is replaced
// leads nowhere, whatever was observed.
func TestRedirectIsMadeAnewWithItsLink(t *testing.T) {
	observed := world()
	observed.Add(netstate.Link{Name: "ifb1", Type: netstate.OtherLink, Mark: net1, Up: true})
	got := text(diff(t, world(), observed, nil))
	for _, want := range []string{"1 delete link ifb1", "5 create link ifb1", "6 create bandwidth ifb1", "6 create redirect veth1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "link veth1") {
		t.Errorf("the port is touched:\n%s", got)
	}
}

// TestLimitsAreLifted: a redirect goes by a step of its own, since its link
// stays.
func TestLimitsAreLifted(t *testing.T) {
	desired := world()
	var release []netstate.Key
	for k := range world() {
		if k.Link == "ifb1" || k.Kind == netstate.KindShaper || k.Kind == netstate.KindRedirect {
			delete(desired, k)
			release = append(release, k)
		}
	}
	want := `1 delete redirect veth1
1 delete bandwidth veth1
1 delete link ifb1
`
	if d := cmp.Diff(want, text(diff(t, desired, world(), release))); d != "" {
		t.Fatalf("-want +got:\n%s", d)
	}
}

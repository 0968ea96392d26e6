package netstate

import (
	"net/netip"
	"testing"
)

func TestTargets(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("10.0.0.2:80"), netip.MustParseAddrPort("10.0.0.10:80"), netip.MustParseAddrPort("[fd00::2]:80")
	all := NewTargets(c, b, a, b)
	if all != NewTargets(a, b, c) || all != "10.0.0.2:80,10.0.0.10:80,[fd00::2]:80" {
		t.Errorf("the targets are %q", all)
	}
	if n := NewTargets(all.All()...); n != all {
		t.Errorf("their members make %q", n)
	}
	if !all.Has(b) || all.Has(netip.MustParseAddrPort("10.0.0.1:80")) || Targets("").Has(a) {
		t.Error("Has is wrong")
	}
	if rest := all.Without(NewTargets(b)); rest != NewTargets(a, c) {
		t.Errorf("without %s they are %q", b, rest)
	}
	if rest := all.Without(all); rest != "" || len(rest.All()) != 0 {
		t.Errorf("without all they are %q", rest)
	}
	p := Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: 80, Targets: NewTargets(a, b), Back: NewTargets(b)}
	if s := p.String(); s != "to 10.0.0.2:80, 10.0.0.10:80 masqueraded" {
		t.Errorf("the publish is %q", s)
	}
}

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

func TestSources(t *testing.T) {
	var list []netip.Prefix
	for _, s := range []string{"192.0.2.9/32", "10.1.0.0/16", "10.0.0.7/8", "10.0.0.0/8", "fd00::/8", "fd00::1/128"} {
		list = append(list, netip.MustParsePrefix(s))
	}
	all := NewSources(list...)
	if all != "10.0.0.0/8,192.0.2.9/32,fd00::/8" || NewSources(all.All()...) != all {
		t.Errorf("the sources are %q", all)
	}
	for a, want := range map[string]bool{"10.1.2.3": true, "192.0.2.9": true, "192.0.2.8": false, "fd00::2": true, "fe80::1": false} {
		if all.Has(netip.MustParseAddr(a)) != want {
			t.Errorf("%s: %t", a, !want)
		}
		if Nobody.Has(netip.MustParseAddr(a)) || !Sources("").Has(netip.MustParseAddr(a)) {
			t.Errorf("%s is nobody, or not everyone", a)
		}
	}
	if NewSources() != Nobody || NewSources(Nobody.All()...) != Nobody {
		t.Error("no source is not nobody")
	}
}

func TestRange(t *testing.T) {
	p := Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: 80, HostPortEnd: 90, Targets: "10.0.0.2:80", Sources: Nobody}
	if p.Ports() != 11 || p.Last() != 90 || p.Shifted() || p.Key().Name != "0.0.0.0:80-90/tcp" || p.String() != "to 10.0.0.2:80 from nobody" {
		t.Errorf("%s %s: %d ports to %d, shifted %t", p.Key(), p, p.Ports(), p.Last(), p.Shifted())
	}
	p.HostPortEnd, p.Targets = 0, "10.0.0.2:8080"
	if p.Ports() != 1 || p.Last() != 80 || p.Shifted() {
		t.Errorf("%s: %d ports to %d, shifted %t", p.Key(), p.Ports(), p.Last(), p.Shifted())
	}
	if p.HostPortEnd = 81; !p.Shifted() {
		t.Errorf("%s %s is not shifted", p.Key(), p)
	}
}

package plan

import "github.com/patchbay-dev/patchbay/nodeagent/netstate"

// activate brings a link up behind what limits it. An ifb is up before anything
// is redirected to it, since what comes while it is down is lost.
func (d *differ) activate(old netstate.Object, l netstate.Link) {
	if l.Type == netstate.IFB {
		d.add(StageMark, Activate, old, l)
		return
	}
	step := d.add(StageActivate, Activate, old, l)
	shaper, redirect := netstate.Shaper{Netns: l.Netns, Link: l.Name}.Key(), netstate.Redirect{Link: l.Name}.Key()
	if d.desired[shaper] != nil {
		step.Needs = append(step.Needs, shaper)
	}
	if r, ok := d.desired[redirect].(netstate.Redirect); ok && l.Netns == "" {
		step.Needs = append(append(step.Needs, redirect), through(r)...)
	}
}

// through returns the keys of the IFB that a redirect leads to and of its shaper.
func through(r netstate.Redirect) []netstate.Key {
	return []netstate.Key{linkKey(netstate.End{Name: r.To}), netstate.Shaper{Link: r.To}.Key()}
}

package engine

import (
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// claims is who has what only one resource may have. Who has it keeps it;
// whoever else asks waits until it is released.
type claims struct {
	// held by resource, then owner: several owners share a claim.
	held    map[string]map[netstate.Owner]compile.Claim
	subnets map[netstate.Owner][]compile.Claim
	of      map[netstate.Owner][]compile.Claim
	waiting map[netstate.Owner]bool
	// letGo says that keep released something since the last take.
	letGo bool
}

func newClaims() claims {
	return claims{
		held:    map[string]map[netstate.Owner]compile.Claim{},
		subnets: map[netstate.Owner][]compile.Claim{},
		of:      map[netstate.Owner][]compile.Claim{},
		waiting: map[netstate.Owner]bool{},
	}
}

// holder returns another owner whose claim conflicts.
func (c *claims) holder(o netstate.Owner, want compile.Claim) (netstate.Owner, bool) {
	for h, have := range c.held[want.Resource] {
		if h != o && want.Conflicts(have) {
			return h, true
		}
	}
	if !want.Subnet.IsValid() {
		return netstate.Owner{}, false
	}
	for h, list := range c.subnets {
		for _, have := range list {
			if h != o && want.Conflicts(have) {
				return h, true
			}
		}
	}
	return netstate.Owner{}, false
}

// keep lets an owner's claims go that it no longer makes.
func (c *claims) keep(o netstate.Owner, list []compile.Claim) {
	c.letGo = c.take(o, slices.DeleteFunc(slices.Clone(c.of[o]), func(have compile.Claim) bool {
		return !slices.ContainsFunc(list, func(want compile.Claim) bool { return want.Resource == have.Resource })
	})) || c.letGo
}

// take gives an owner what it claims in place of what it had, and reports
// whether anything it had was released.
func (c *claims) take(o netstate.Owner, list []compile.Claim) (released bool) {
	old := c.of[o]
	released, c.letGo = c.letGo, false
	for _, cl := range old {
		delete(c.held[cl.Resource], o)
		if len(c.held[cl.Resource]) == 0 {
			delete(c.held, cl.Resource)
		}
	}
	delete(c.subnets, o)
	delete(c.of, o)
	for _, cl := range list {
		if c.held[cl.Resource] == nil {
			c.held[cl.Resource] = map[netstate.Owner]compile.Claim{}
		}
		c.held[cl.Resource][o] = cl
		if cl.Subnet.IsValid() {
			c.subnets[o] = append(c.subnets[o], cl)
		}
	}
	if len(list) > 0 {
		c.of[o] = list
	}
	for _, cl := range old {
		if _, kept := c.held[cl.Resource][o]; !kept {
			return true
		}
	}
	return released
}

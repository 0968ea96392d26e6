package engine

import (
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// claims is who has what only one resource may have: names, ports, subnets and
// addresses. It is the one book of these; who has something keeps it, and
// whoever else asks waits until it is released.
type claims struct {
	// held by resource, then owner: several owners share a claim.
	held    map[string]map[netstate.Owner]compile.Claim
	ports   portBook
	subnets map[netstate.Owner][]compile.Claim
	of      map[netstate.Owner][]compile.Claim
	// chosen are claims of what was picked for an owner that is being compiled:
	// nobody else is given it, and unless the owner takes it, it was never held.
	chosen map[netstate.Owner][]compile.Claim
	// waiting are those who lost claims, by class; awaited are the classes of each.
	waiting map[string]map[netstate.Owner]bool
	awaited map[netstate.Owner][]string
	// letGo are the classes of what keep released since the last take.
	letGo []string
	// rooms are the limits of counted resources.
	rooms map[string]*room
}

func newClaims() claims {
	return claims{
		held:    map[string]map[netstate.Owner]compile.Claim{},
		ports:   portBook{},
		subnets: map[netstate.Owner][]compile.Claim{},
		of:      map[netstate.Owner][]compile.Claim{},
		chosen:  map[netstate.Owner][]compile.Claim{},
		waiting: map[string]map[netstate.Owner]bool{},
		awaited: map[netstate.Owner][]string{},
		rooms:   map[string]*room{},
	}
}

// holder returns another owner whose claim conflicts.
func (c *claims) holder(o netstate.Owner, want compile.Claim) (netstate.Owner, bool) {
	if want.Ports != (compile.HostPorts{}) {
		return c.ports.holder(o, want.Ports)
	}
	if want.Counted {
		return netstate.Owner{}, c.full(o, want.Resource)
	}
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

// choose sets something aside for an owner that is being compiled, and reports
// false if another has it.
func (c *claims) choose(o netstate.Owner, want compile.Claim) bool {
	if _, taken := c.holder(o, want); taken {
		return false
	}
	if !has(c.of[o], want) && !has(c.chosen[o], want) {
		c.chosen[o] = append(c.chosen[o], want)
		c.add(o, want)
	}
	return true
}

// grant gives an owner what it had before this process began, unless another has
// it.
func (c *claims) grant(o netstate.Owner, had compile.Claim) {
	if _, taken := c.holder(o, had); taken || has(c.of[o], had) {
		return
	}
	c.of[o] = append(c.of[o], had)
	c.add(o, had)
}

// keep lets an owner's claims go that it no longer makes.
func (c *claims) keep(o netstate.Owner, list []compile.Claim) {
	kept := slices.DeleteFunc(slices.Clone(c.of[o]), func(have compile.Claim) bool { return !has(list, have) })
	if len(kept) < len(c.of[o]) {
		c.letGo = append(c.letGo, released(c.of[o], kept)...)
		c.replace(o, c.of[o], kept)
		c.of[o] = kept
	}
}

// take gives an owner what it claims in place of what it had, and returns the
// classes of what was released.
func (c *claims) take(o netstate.Owner, list []compile.Claim) []string {
	classes := append(c.letGo, released(c.of[o], list)...)
	c.letGo = nil
	c.replace(o, append(c.of[o], c.chosen[o]...), list)
	delete(c.chosen, o)
	delete(c.of, o)
	if len(list) > 0 {
		c.of[o] = list
	}
	return classes
}

// released are the classes of the claims that a new list lacks.
func released(had, list []compile.Claim) (classes []string) {
	for _, h := range had {
		if !has(list, h) {
			classes = append(classes, h.Class())
		}
	}
	return classes
}

// await notes that an owner waits for the release of a claim of a class.
func (c *claims) await(o netstate.Owner, class string) {
	if c.waiting[class] == nil {
		c.waiting[class] = map[netstate.Owner]bool{}
	}
	c.waiting[class][o] = true
	c.awaited[o] = append(c.awaited[o], class)
}

// awaitNothing ends all waiting of an owner.
func (c *claims) awaitNothing(o netstate.Owner) {
	for _, class := range c.awaited[o] {
		delete(c.waiting[class], o)
		if len(c.waiting[class]) == 0 {
			delete(c.waiting, class)
		}
	}
	delete(c.awaited, o)
}

func (c *claims) replace(o netstate.Owner, old, list []compile.Claim) {
	for _, cl := range old {
		delete(c.held[cl.Resource], o)
		c.count(cl)
		c.ports.remove(o, cl.Ports)
		if len(c.held[cl.Resource]) == 0 {
			delete(c.held, cl.Resource)
		}
	}
	delete(c.subnets, o)
	for _, cl := range list {
		c.add(o, cl)
	}
}

func (c *claims) add(o netstate.Owner, cl compile.Claim) {
	if c.held[cl.Resource] == nil {
		c.held[cl.Resource] = map[netstate.Owner]compile.Claim{}
	}
	c.held[cl.Resource][o] = cl
	c.count(cl)
	c.ports.add(o, cl.Ports)
	if cl.Subnet.IsValid() {
		c.subnets[o] = append(c.subnets[o], cl)
	}
}

func has(list []compile.Claim, c compile.Claim) bool {
	return slices.ContainsFunc(list, func(have compile.Claim) bool { return have.Resource == c.Resource })
}

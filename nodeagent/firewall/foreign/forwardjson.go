package foreign

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// phrase is a part of a rule as nft lists it, by its kind.
type phrase map[string]json.RawMessage

// parseForward reads the rules of each chain of a listing.
func parseForward(text []byte) (map[string][]forwardRule, error) {
	var l struct {
		Objects []struct {
			Rule *struct {
				Chain string
				Expr  []json.RawMessage
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("read listing of chains: %w", err)
	}
	out := map[string][]forwardRule{}
	for _, o := range l.Objects {
		if o.Rule != nil {
			out[o.Rule.Chain] = append(out[o.Rule.Chain], ruleOf(o.Rule.Expr)...)
		}
	}
	return out, nil
}

// ruleOf is what a rule means; a map of verdicts makes several of it.
func ruleOf(expr []json.RawMessage) []forwardRule {
	var r forwardRule
	for _, raw := range expr {
		var s phrase
		if json.Unmarshal(raw, &s) != nil {
			r.conditional = true
		}
		for kind, value := range s {
			if kind == "vmap" {
				return branches(r, value)
			}
			r.take(kind, value)
		}
	}
	var out []forwardRule
	for _, p := range portsOf(expr) {
		r.ports = p
		out = append(out, r)
	}
	if len(out) == 0 {
		return []forwardRule{r}
	}
	return out
}

// portsOf are the ports that a rule is for; none if it asks for anything else, or
// does not drop.
func portsOf(expr []json.RawMessage) (found []closedPorts) {
	for _, raw := range expr {
		var s struct {
			Match *struct {
				Op   string
				Left struct {
					Payload struct{ Protocol, Field string }
				}
				Right json.RawMessage
			}
			Counter, Log json.RawMessage
		}
		if json.Unmarshal(raw, &s) != nil {
			return nil
		}
		switch {
		case s.Match == nil && (s.Counter != nil || s.Log != nil || bytes.Contains(raw, []byte(`"drop"`))):
		case s.Match == nil || found != nil || s.Match.Op != "==" || s.Match.Left.Payload.Field != "dport" || s.Match.Left.Payload.Protocol == "th":
			return nil
		default:
			if found = portsIn(s.Match.Left.Payload.Protocol, s.Match.Right); found == nil {
				return nil
			}
		}
	}
	return found
}

// portsIn are the ports that are compared with: one, a range, or a set of such.
func portsIn(proto string, right json.RawMessage) []closedPorts {
	var one uint16
	if json.Unmarshal(right, &one) == nil {
		return []closedPorts{{proto, one, one}}
	}
	var many struct {
		Range []uint16
		Set   []json.RawMessage
	}
	_ = json.Unmarshal(right, &many)
	if len(many.Range) == 2 {
		return []closedPorts{{proto, many.Range[0], many.Range[1]}}
	}
	var out []closedPorts
	for _, element := range many.Set {
		out = append(out, portsIn(proto, element)...)
	}
	return out
}

// unconditional statements do not keep a packet from what follows.
var unconditional = []string{"counter", "log", "mangle", "continue", "ct helper", "ct timeout", "ct expectation", "flow"}

func (r *forwardRule) take(kind string, value json.RawMessage) {
	switch kind {
	case "accept":
		r.verdict = accepts
	case "drop":
		r.verdict, r.text = drops, "drop"
	case "return":
		r.verdict = returns
	case "jump", "goto":
		var to struct{ Target string }
		_ = json.Unmarshal(value, &to)
		r.verdict, r.to = jumps, to.Target
		if kind == "goto" {
			r.verdict = goes
		}
	case "notrack":
		r.untracks = true
	case "reject":
		r.reject(value)
	case "xt":
		r.xt(value)
	case "match":
		r.match(value)
	default:
		if !slices.Contains(unconditional, kind) {
			r.conditional, r.translated = true, false
		}
	}
}

// reject is for one family where it answers with an ICMP message of that.
func (r *forwardRule) reject(value json.RawMessage) {
	var with struct{ Type, Expr string }
	_ = json.Unmarshal(value, &with)
	r.verdict, r.text = drops, strings.TrimSpace("reject with "+with.Type+" "+with.Expr)
	switch with.Type {
	case "":
		r.text = "reject"
	case "icmp":
		r.family = netstate.IPv4
	case "icmpv6":
		r.family = netstate.IPv6
	case "tcp reset":
		r.conditional = true
	}
}

// xt is a part that iptables made: nft tells its name alone.
func (r *forwardRule) xt(value json.RawMessage) {
	var x struct{ Type, Name string }
	_ = json.Unmarshal(value, &x)
	switch {
	case x.Type == "target" && x.Name == "REJECT":
		r.verdict, r.text = drops, "REJECT"
	case x.Type != "target" && x.Name != "comment":
		r.conditional, r.translated = true, false
	}
}

// comparison is a match of a rule.
type comparison struct {
	Op          string
	Left, Right json.RawMessage
}

func (r *forwardRule) match(value json.RawMessage) {
	var c comparison
	_ = json.Unmarshal(value, &c)
	var family string
	if metaKey(c.Left) == "nfproto" && c.Op == "==" && json.Unmarshal(c.Right, &family) == nil && r.family == "" {
		r.family = netstate.IPv4
		if family == "ipv6" {
			r.family = netstate.IPv6
		}
		return
	}
	r.translated = !r.conditional && ofTranslated(c)
	r.conditional = true
	r.byLink = r.byLink || aboutLinks(c.Left)
	if linkKey(c.Left) && c.Op != "!=" {
		r.links = append(r.links, linksIn(c.Right)...)
	}
}

// ofTranslated reports whether packets of connections with a translated target are asked
// for.
func ofTranslated(c comparison) bool {
	var l struct{ CT struct{ Key string } }
	var status string
	return json.Unmarshal(c.Left, &l) == nil && l.CT.Key == "status" && c.Op != "!=" && json.Unmarshal(c.Right, &status) == nil && status == "dnat"
}

func metaKey(left json.RawMessage) string {
	var l struct{ Meta struct{ Key string } }
	_ = json.Unmarshal(left, &l)
	return l.Meta.Key
}

func linkKey(left json.RawMessage) bool {
	return slices.Contains([]string{"iifname", "oifname", "iif", "oif"}, metaKey(left))
}

// aboutLinks reports whether the comparison has an interface.
func aboutLinks(left json.RawMessage) bool {
	return bytes.Contains(left, []byte(`"iif`)) || bytes.Contains(left, []byte(`"oif`))
}

// linksIn are the interfaces that are compared with; what a named set has is not
// looked at.
func linksIn(right json.RawMessage) []string {
	var one string
	if json.Unmarshal(right, &one) == nil {
		if strings.HasPrefix(one, "@") {
			return nil
		}
		return []string{one}
	}
	var set struct{ Set []string }
	_ = json.Unmarshal(right, &set)
	return set.Set
}

// branches are a rule for each element of a map of verdicts.
func branches(r forwardRule, value json.RawMessage) []forwardRule {
	var m struct {
		Key  json.RawMessage
		Data struct{ Set [][]json.RawMessage }
	}
	_ = json.Unmarshal(value, &m)
	var out []forwardRule
	for _, element := range m.Data.Set {
		b := r
		b.conditional, b.translated, b.byLink = true, false, r.byLink || aboutLinks(m.Key)
		var s phrase
		if len(element) != 2 || json.Unmarshal(element[1], &s) != nil {
			continue
		}
		for kind, value := range s {
			b.take(kind, value)
		}
		if linkKey(m.Key) {
			b.links = append(slices.Clone(r.links), linksIn(element[0])...)
		}
		out = append(out, b)
	}
	return out
}

package netstate

import (
	"fmt"
	"strings"
)

// Attribute is a number that the kernel holds of a bridge, and on which the
// traffic of its ports depends.
type Attribute uint8

// The attributes, named as `ip link` names them.
const (
	NoLinkLocalLearn Attribute = iota
	MulticastSnooping
	MulticastHashMax
	FDBMaxLearned
	attributeCount
)

var attributeNames = [attributeCount]string{"no_linklocal_learn", "mcast_snooping", "mcast_hash_max", "fdb_max_learned"}

func (a Attribute) String() string { return attributeNames[a] }

// Attributes are values by attribute. One without a value does not matter where
// Attributes are wanted; where they are observed, the kernel does not have it.
type Attributes struct {
	has    uint32
	values [attributeCount]uint32
}

// With returns the attributes with one more, or with another value of it.
func (s Attributes) With(a Attribute, value uint32) Attributes {
	s.has |= 1 << a
	s.values[a] = value
	return s
}

// Get returns an attribute's value, and whether it has one.
func (s Attributes) Get(a Attribute) (uint32, bool) { return s.values[a], s.has&(1<<a) != 0 }

// Unlike returns those of the attributes that others have with another value.
// What only one of the two has is left out.
func (s Attributes) Unlike(others Attributes) Attributes {
	var out Attributes
	for a := range attributeCount {
		value, ok := s.Get(a)
		if other, has := others.Get(a); ok && has && value != other {
			out = out.With(a, value)
		}
	}
	return out
}

// String is "name=value" of each, by spaces.
func (s Attributes) String() string {
	var texts []string
	for a := range attributeCount {
		if value, ok := s.Get(a); ok {
			texts = append(texts, fmt.Sprintf("%s=%d", a, value))
		}
	}
	return strings.Join(texts, " ")
}

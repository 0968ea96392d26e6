package netstate

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// The marks by which a restarted agent knows its own objects. No other
// software uses these numbers; 80 as a route protocol is Calico's.
const (
	// LinkGroup is the interface group (IFLA_GROUP) of every link of Patchbay,
	// carried by the message that creates it.
	LinkGroup = 0x50425901
	// DoomedGroup holds links of Patchbay on their way out, so that one message
	// deletes them all.
	DoomedGroup = 0x50425902
	// RouteProtocol marks our routes (rtm_protocol) and addresses (IFA_PROTO,
	// Linux 5.18 and newer).
	RouteProtocol = 147
	// SocketMark (SO_MARK) is on every socket that holds a port for a publish.
	SocketMark = LinkGroup
)

// HalfMade is observed as the Mark of a link that bears our group and no alias:
// its maker died between the two messages. Patchbay finishes or removes it.
const HalfMade = "half-made"

// Source says where wanted state comes from. Marks carry it, so that a cluster
// agent and standalone mode never sweep each other's objects.
type Source string

// The sources.
const (
	SourceCluster Source = "cluster"
	SourceLocal   Source = "local"
)

// maxAlias is IFALIASZ-1 (linux/if.h).
const maxAlias = 255

// Mark is the link alias that names an owner: patchbay:<source>:<short>:<name>,
// with a hash in place of the part beyond the kernel's 255 bytes.
func Mark(s Source, o Owner) string { return clip("patchbay:" + string(s) + ":" + o.String()) }

// NetnsMark is the content of a Managed namespace's file before the mount and
// the alias of its loopback. It names the namespace and no owner, since a
// namespace lives while any attachment uses it.
func NetnsMark(s Source, netns string) string {
	return clip("patchbay:" + string(s) + ":netns:" + netns)
}

func clip(s string) string {
	if len(s) <= maxAlias {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:maxAlias-17] + "#" + hex.EncodeToString(sum[:8])
}

// ParseMark reads an alias. It returns false for one that is not Patchbay's.
// The owner of a clipped mark has a name that no resource has.
func ParseMark(alias string) (Source, Owner, bool) {
	parts := strings.SplitN(alias, ":", 4)
	if len(parts) != 4 || parts[0] != "patchbay" || parts[2] == "" || parts[3] == "" {
		return "", Owner{}, false
	}
	s := Source(parts[1])
	if s != SourceCluster && s != SourceLocal {
		return "", Owner{}, false
	}
	o := Owner{Kind: parts[2], Name: parts[3]}
	if ns, name, ok := strings.Cut(parts[3], "/"); ok {
		o.Namespace, o.Name = ns, name
	}
	return s, o, true
}

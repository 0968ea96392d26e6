package rtnl

import (
	"bytes"
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
)

// Filter is a classifier's filter as a netlink message describes it.
type Filter struct {
	Index    int32
	Parent   uint32
	Priority uint16
	protocol uint16 // in network byte order
	kind     string
	Action   *mirred // the first and only one; nil where it is another
	all      bool    // it matches every packet and ends there
}

// mirred is an action that sends packets elsewhere; of another action only the verdict is
// read.
type mirred struct {
	kind     string
	cookie   string
	verdict  uint32
	redirect bool
	To       int32
}

// ParseFilter reads RTM_NEWTFILTER and RTM_DELTFILTER; it returns false for any other
// message.
func ParseFilter(b []byte) (Filter, bool) {
	if len(b) < nl.SizeofTcMsg {
		return Filter{}, false
	}
	info := Uint32(b[16:])
	f := Filter{Index: int32(Uint32(b[4:])), Parent: Uint32(b[12:]), Priority: uint16(info >> 16), protocol: uint16(info)}
	for kind, value := range Attributes(b[nl.SizeofTcMsg:]) {
		switch kind {
		case nl.TCA_KIND:
			f.kind = stringOf(value)
		case nl.TCA_OPTIONS:
			f.parseOptions(value)
		}
	}
	return f, f.Index > 0
}

func (f *Filter) parseOptions(b []byte) {
	if f.kind == "matchall" {
		f.all = true
		for kind, value := range Attributes(b) {
			if kind == matchallAction {
				f.parseActions(value)
			}
		}
	}
	if f.kind != "u32" {
		return
	}
	for kind, value := range Attributes(b) {
		switch kind {
		case nl.TCA_U32_SEL:
			f.all = bytes.Equal(value, everything().Serialize())
		case nl.TCA_U32_ACT:
			f.parseActions(value)
		}
	}
}

func (f *Filter) parseActions(b []byte) {
	for _, value := range Attributes(b) {
		if f.Action != nil {
			f.Action = nil
			return
		}
		f.Action = parseAction(value)
	}
}

func parseAction(b []byte) *mirred {
	m := &mirred{}
	for kind, value := range Attributes(b) {
		switch kind {
		case nl.TCA_ACT_KIND:
			m.kind = stringOf(value)
		case nl.TCA_ACT_COOKIE:
			m.cookie = string(value)
		case nl.TCA_ACT_OPTIONS:
			m.parseOptions(value)
		}
	}
	return m
}

func (m *mirred) parseOptions(b []byte) {
	for kind, value := range Attributes(b) {
		// TCA_GACT_PARMS has the same number, and a verdict in the same place.
		if kind == nl.TCA_MIRRED_PARMS && len(value) >= 12 {
			m.verdict = Uint32(value[8:])
		}
		if kind == nl.TCA_MIRRED_PARMS && m.kind == "mirred" && len(value) >= mirredSize {
			m.redirect = Uint32(value[8:]) == actionStolen && Uint32(value[20:]) == egressRedirect
			m.To = int32(Uint32(value[24:]))
		}
	}
}

// Ours reports whether the filter bears our mark, the cookie of its action.
func (f Filter) Ours() bool {
	return f.Action != nil && f.Action.kind == "mirred" && f.Action.cookie == redirectCookie
}

// TakesAll reports whether the filter lets no packet go on: it drops each, or sends
// it elsewhere.
func (f Filter) TakesAll() bool {
	return f.all && f.Action != nil && (f.Action.verdict == actionShot || f.Action.verdict == actionStolen)
}

// Works reports whether it is as we make it.
func (f Filter) Works() bool {
	return f.Ours() && f.all && f.Action.redirect && f.protocol == EveryProtocol && f.Priority == RedirectPriority
}

// RedirectOptions match every packet and send it to the link.
func RedirectOptions(to int32) *nl.RtAttr {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_U32_SEL, everything().Serialize())
	action := options.AddRtAttr(nl.TCA_U32_ACT, nil).AddRtAttr(1, nil)
	action.AddRtAttr(nl.TCA_ACT_KIND, nl.ZeroTerminated("mirred"))
	parameters := make([]byte, mirredSize)
	binary.NativeEndian.PutUint32(parameters[8:], actionStolen)
	binary.NativeEndian.PutUint32(parameters[20:], egressRedirect)
	binary.NativeEndian.PutUint32(parameters[24:], uint32(to))
	action.AddRtAttr(nl.TCA_ACT_OPTIONS, nil).AddRtAttr(nl.TCA_MIRRED_PARMS, parameters)
	action.AddRtAttr(nl.TCA_ACT_COOKIE, []byte(redirectCookie))
	return options
}

// everything selects all packets: matchall, without its kernel module.
func everything() *nl.TcU32Sel {
	return &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: 1, Keys: []nl.TcU32Key{{}}}
}

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Ask says which entries of conntrack a dump is to be of, so that the kernel does
// not tell of all that a busy node has (since Linux 5.8; before, it does). A zero field
// is not compared.
type Ask struct {
	// src, dst and port are of the first packet, where port is its destination's of
	// proto; from is where replies come from. The addresses are of IPv4: of IPv6 the
	// kernel tells of all but those (ctnetlink_filter_match_tuple takes what
	// ipv6_addr_cmp returns for its contrary, as of Linux 6.18).
	Src, Dst, From netip.Addr
	Proto          uint8
	Port           uint16
}

// maxAsks bounds the dumps. Each walks through the whole table: beyond the bound, one dump of
// all connections is less work.
const maxAsks = 12

// asks are dumps that tell of all connections that flush looks for, and of few
// further ones.
func (x flowIndex) asks() []Ask {
	var list []Ask
	for k := range x.ports {
		list = append(list, Ask{Proto: k.proto, Port: k.port})
	}
	six := false
	for a := range x.gone {
		list, six = append(list, Ask{Src: a}, Ask{Dst: a}, Ask{From: a}), six || a.Is6()
	}
	if len(x.ranges) > 0 || six || len(list) > maxAsks {
		return []Ask{{}}
	}
	return list
}

// The attribute of a dump's filter, and the parts of a tuple that it compares (Linux
// uapi nfnetlink_conntrack.h, net/netfilter/nf_internals.h).
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	compareSource      = 1 << 0
	compareDestination = 1 << 1
	compareProto       = 1 << 3
	comparePort        = 1 << 5
)

// addTo adds the filter to the request for a dump.
func (a Ask) addTo(req *nl.NetlinkRequest) {
	if a == (Ask{}) {
		return
	}
	orig, origFlags := tupleAttribute(nl.CTA_TUPLE_ORIG, a.Src, a.Dst)
	reply, replyFlags := tupleAttribute(nl.CTA_TUPLE_REPLY, a.From, netip.Addr{})
	if a.Proto != 0 {
		proto := orig.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{a.Proto})
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, a.Port))
		origFlags |= compareProto | comparePort
	}
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	for _, part := range []struct {
		tuple *nl.RtAttr
		flags uint32
		which int
	}{{orig, origFlags, ctaFilterOrigFlags}, {reply, replyFlags, ctaFilterReplyFlags}} {
		if part.flags != 0 {
			req.AddData(part.tuple)
		}
		filter.AddRtAttr(part.which, binary.NativeEndian.AppendUint32(nil, part.flags))
	}
	req.AddData(filter)
}

// tupleAttribute is a tuple with the addresses that are valid.
func tupleAttribute(which int, src, dst netip.Addr) (tuple *nl.RtAttr, flags uint32) {
	tuple = nl.NewRtAttr(which|unix.NLA_F_NESTED, nil)
	if !src.IsValid() && !dst.IsValid() {
		return tuple, 0
	}
	ip := tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	if src.IsValid() {
		ip.AddRtAttr(nl.CTA_IP_V4_SRC, src.AsSlice())
		flags |= compareSource
	}
	if dst.IsValid() {
		ip.AddRtAttr(nl.CTA_IP_V4_DST, dst.AsSlice())
		flags |= compareDestination
	}
	return tuple, flags
}

// DumpConnections returns the entries of a family that an ask is about, or more.
func DumpConnections(family netlink.InetFamily, a Ask) ([][]byte, error) {
	req := conntrackRequest(family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	a.addTo(req)
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Connection is one entry of the conntrack table.
type Connection struct {
	Orig, Reply tuple
	zone        uint16
	// Raw is the entry as the kernel told it, after the nfgenmsg.
	Raw []byte
}

type tuple struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

// localAddresses are the node's addresses that a publish may answer on.
func localAddresses(family int) (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(nil, family)
	for n := 1; n < nfnl.MaxTries && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		list, err = netlink.AddrList(nil, family)
	}
	addrs := map[netip.Addr]bool{}
	for _, l := range list {
		a, _ := netip.AddrFromSlice(l.IP)
		if a = a.Unmap(); !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			addrs[a] = true
		}
	}
	return addrs, err
}

// deleteConnections deletes the connections of a family that are asked for and match. It reads the entries itself: vishvananda's parser leaves out SCTP's ports.
func deleteConnections(family netlink.InetFamily, asks []Ask, match func(Connection) bool) error {
	var errs []error
	for _, a := range asks {
		errs = append(errs, deleteAsked(family, a, match))
	}
	return errors.Join(errs...)
}

func deleteAsked(family netlink.InetFamily, a Ask, match func(Connection) bool) error {
	entries, err := DumpConnections(family, a)
	for n := 1; n < nfnl.MaxTries && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		entries, err = DumpConnections(family, a)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		c, ok := ParseConnection(entry)
		if !ok || !match(c) {
			continue
		}
		req := conntrackRequest(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddRawData(c.Raw)
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete %s to %s: %w", c.Orig.Src, c.Orig.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func conntrackRequest(family netlink.InetFamily, op, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|op, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	return req
}

// ParseConnection reads one message of a conntrack dump.
func ParseConnection(message []byte) (Connection, bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return Connection{}, false
	}
	c := Connection{Raw: message[nl.SizeofNfgenmsg:]}
	for t, v := range nfnl.Attributes(c.Raw) {
		switch {
		case t == nl.CTA_TUPLE_ORIG:
			c.Orig = parseTuple(v)
		case t == nl.CTA_TUPLE_REPLY:
			c.Reply = parseTuple(v)
		case t == nl.CTA_ZONE && len(v) >= 2:
			c.zone = binary.BigEndian.Uint16(v)
		}
	}
	return c, c.Orig.Dst.IsValid() && c.Reply.Src.IsValid()
}

func parseTuple(nested []byte) tuple {
	var src, dst netip.Addr
	var t tuple
	var ports [2]uint16
	for kind, v := range nfnl.Attributes(nested) {
		for k, w := range nfnl.Attributes(v) {
			switch {
			case kind == nl.CTA_TUPLE_IP && (k == nl.CTA_IP_V4_SRC || k == nl.CTA_IP_V6_SRC):
				src, _ = netip.AddrFromSlice(w)
			case kind == nl.CTA_TUPLE_IP && (k == nl.CTA_IP_V4_DST || k == nl.CTA_IP_V6_DST):
				dst, _ = netip.AddrFromSlice(w)
			case kind == nl.CTA_TUPLE_PROTO && k == nl.CTA_PROTO_NUM && len(w) >= 1:
				t.Proto = w[0]
			case kind == nl.CTA_TUPLE_PROTO && (k == nl.CTA_PROTO_SRC_PORT || k == nl.CTA_PROTO_DST_PORT) && len(w) >= 2:
				ports[k-nl.CTA_PROTO_SRC_PORT] = binary.BigEndian.Uint16(w)
			}
		}
	}
	t.Src, t.Dst = netip.AddrPortFrom(src, ports[0]), netip.AddrPortFrom(dst, ports[1])
	return t
}

// unsupported reports that the kernel has no conntrack netlink (EINVAL is
// nfnetlink's answer for a subsystem it lacks) or keeps it from us: asking again
// is no use.
func unsupported(err error) bool {
	for _, e := range []unix.Errno{unix.EINVAL, unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func retryable(err error) bool { return !unsupported(err) }

// Protocols are the protocols that can be published.
var Protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

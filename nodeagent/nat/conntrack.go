package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// connection is one entry of the conntrack table.
type connection struct {
	orig, reply tuple
	zone        uint16
	// raw is the entry as the kernel told it, after the nfgenmsg.
	raw []byte
}

type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
}

// maxDumps bounds the attempts at a dump that the kernel says was interrupted.
const maxDumps = 5

// localAddresses are the node's addresses that a publish may answer on.
func localAddresses(family int) (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(nil, family)
	for n := 1; n < maxDumps && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
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

// deleteConnections deletes those of a family's connections that are asked for and
// match. It reads the entries itself: vishvananda's parser leaves out SCTP's ports.
func deleteConnections(family netlink.InetFamily, asks []ask, match func(connection) bool) error {
	var errs []error
	for _, a := range asks {
		errs = append(errs, deleteAsked(family, a, match))
	}
	return errors.Join(errs...)
}

func deleteAsked(family netlink.InetFamily, a ask, match func(connection) bool) error {
	entries, err := dumpConnections(family, a)
	for n := 1; n < maxDumps && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		entries, err = dumpConnections(family, a)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		c, ok := parseConnection(entry)
		if !ok || !match(c) {
			continue
		}
		req := conntrackRequest(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddRawData(c.raw)
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete %s to %s: %w", c.orig.src, c.orig.dst, err))
		}
	}
	return errors.Join(errs...)
}

func conntrackRequest(family netlink.InetFamily, op, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|op, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	return req
}

// parseConnection reads one message of a conntrack dump.
func parseConnection(message []byte) (connection, bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return connection{}, false
	}
	c := connection{raw: message[nl.SizeofNfgenmsg:]}
	for t, v := range attributes(c.raw) {
		switch {
		case t == nl.CTA_TUPLE_ORIG:
			c.orig = parseTuple(v)
		case t == nl.CTA_TUPLE_REPLY:
			c.reply = parseTuple(v)
		case t == nl.CTA_ZONE && len(v) >= 2:
			c.zone = binary.BigEndian.Uint16(v)
		}
	}
	return c, c.orig.dst.IsValid() && c.reply.src.IsValid()
}

func parseTuple(nested []byte) tuple {
	var src, dst netip.Addr
	var t tuple
	var ports [2]uint16
	for kind, v := range attributes(nested) {
		for k, w := range attributes(v) {
			switch {
			case kind == nl.CTA_TUPLE_IP && (k == nl.CTA_IP_V4_SRC || k == nl.CTA_IP_V6_SRC):
				src, _ = netip.AddrFromSlice(w)
			case kind == nl.CTA_TUPLE_IP && (k == nl.CTA_IP_V4_DST || k == nl.CTA_IP_V6_DST):
				dst, _ = netip.AddrFromSlice(w)
			case kind == nl.CTA_TUPLE_PROTO && k == nl.CTA_PROTO_NUM && len(w) >= 1:
				t.proto = w[0]
			case kind == nl.CTA_TUPLE_PROTO && (k == nl.CTA_PROTO_SRC_PORT || k == nl.CTA_PROTO_DST_PORT) && len(w) >= 2:
				ports[k-nl.CTA_PROTO_SRC_PORT] = binary.BigEndian.Uint16(w)
			}
		}
	}
	t.src, t.dst = netip.AddrPortFrom(src, ports[0]), netip.AddrPortFrom(dst, ports[1])
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

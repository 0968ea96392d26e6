package scenarios

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func quiet(c call) (output, error) {
	if len(c.args) == 0 {
		return output{}, errUsage
	}
	before, err := settledDump()
	if err != nil {
		return output{}, err
	}
	var out output
	writes, err := writesDuring(func() (err error) {
		inner := c
		inner.neg, inner.args = false, c.args[1:]
		out, err = inner.program(c.args[0])
		return err
	})
	if err != nil {
		// Not a refutation: a program that fails does not prove that it writes.
		return out, fmt.Errorf("run %s: %s", c.args[0], err.Error())
	}
	after, err := dump()
	switch {
	case err != nil:
		return out, err
	case after != before:
		return out, netlab.Refuted("the state of the node changed:\n%s", delta("before", before, "after", after))
	case len(writes) > 0:
		return out, netlab.Refuted("the kernel announced %s", strings.Join(writes, ", "))
	}
	return out, nil
}

// writesDuring returns what the kernel says was written while f ran.
func writesDuring(f func() error) ([]string, error) {
	before, err := firewallGeneration()
	if err != nil {
		return nil, err
	}
	w, err := watchWrites()
	if err != nil {
		return nil, err
	}
	defer w.close()
	if err := f(); err != nil {
		return nil, err
	}
	writes, err := w.writes()
	if err != nil {
		return nil, err
	}
	after, err := firewallGeneration()
	if after != before {
		writes = append(writes, fmt.Sprintf("firewall generation %d after %d", after, before))
	}
	return writes, err
}

// firewallGeneration counts the committed nftables transactions of the node.
func firewallGeneration() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the firewall generation: %w", err)
	}
	for _, a := range answers {
		attrs, err := nl.ParseRouteAttr(a[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, err
		}
		for _, attr := range attrs {
			if attr.Attr.Type == unix.NFTA_GEN_ID {
				return binary.BigEndian.Uint32(attr.Value), nil
			}
		}
	}
	return 0, errors.New("the kernel did not tell the firewall generation")
}

// A watcher hears what the kernel announces of the node and of the namespaces
// that a link leads to.
type watcher struct{ fd int }

func watchWrites() (watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return watcher{}, err
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE |
		unix.RTMGRP_IPV6_ROUTE | unix.RTMGRP_IPV4_RULE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return watcher{}, err
	}
	return watcher{fd}, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1)
}

func (w watcher) close() { unix.Close(w.fd) }

// writes returns the writes that the kernel announced so far.
func (w watcher) writes() ([]string, error) {
	var found []string
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read announcements: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if what := describe(m); what != "" {
				found = append(found, what)
			}
		}
	}
}

var announcements = map[uint16]string{
	unix.RTM_NEWLINK: "a changed link", unix.RTM_DELLINK: "a removed link",
	unix.RTM_NEWADDR: "an added address", unix.RTM_DELADDR: "a removed address",
	unix.RTM_NEWROUTE: "an added route", unix.RTM_DELROUTE: "a removed route",
	unix.RTM_NEWRULE: "an added rule", unix.RTM_DELRULE: "a removed rule",
}

// describe returns nothing for what a link announces by itself for a while
// after it went up: its carrier, its state as a bridge port, its link-local
// address and routes.
func describe(m syscall.NetlinkMessage) string {
	switch m.Header.Type {
	case unix.RTM_NEWLINK:
		info := nl.DeserializeIfInfomsg(m.Data)
		if info.Family == unix.AF_BRIDGE || info.Change == 0 {
			return ""
		}
		return fmt.Sprintf("a change of flags %#x of link %d", info.Change, info.Index)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return err.Error()
		}
		for _, a := range attrs {
			// RTA_DST and IFA_ADDRESS are both 1.
			if a.Attr.Type == unix.RTA_DST {
				if kernelsOwn(net.IP(a.Value)) {
					return ""
				}
				return fmt.Sprintf("%s %s", announcements[m.Header.Type], net.IP(a.Value))
			}
		}
	}
	return announcements[m.Header.Type]
}

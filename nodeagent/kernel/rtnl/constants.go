package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's interface that golang.org/x/sys/unix lacks.
const (
	nlaTypeMask     = 0x3fff // NLA_TYPE_MASK, linux/netlink.h
	SkipStats       = 1 << 3 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	ifaProto        = 11     // IFA_PROTO, linux/if_addr.h, Linux 5.18
	NetconfaIfindex = 1      // NETCONFA_IFINDEX, linux/netconf.h

	// linux/net_namespace.h
	NetnsaNSID        = 1 // NETNSA_NSID
	NetnsaFD          = 3 // NETNSA_FD
	NetnsaTargetNSID  = 4 // NETNSA_TARGET_NSID, Linux 5.0
	netnsaCurrentNSID = 5 // NETNSA_CURRENT_NSID
)

// MaxName is IFNAMSIZ-1.
const MaxName = 15

// EveryProtocol is ETH_P_ALL in network byte order.
var EveryProtocol = binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})

// Numbers of the packet scheduler, linux/pkt_sched.h, pkt_cls.h and tc_act.
const (
	RootQdisc      = 0xffffffff // TC_H_ROOT
	IngressQdisc   = 0xfffffff1 // TC_H_CLSACT
	IngressFilters = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	EgressFilters  = 0xfffffff3 // TC_H_MIN_EGRESS
	actionShot     = 2          // TC_ACT_SHOT
	actionStolen   = 4          // TC_ACT_STOLEN
	matchallAction = 2          // TCA_MATCHALL_ACT
	egressRedirect = 1          // TCA_EGRESS_REDIR
	mirredSize     = 28         // struct tc_mirred; nl's has two bytes too many
	schedulerTick  = 64         // nanoseconds, 1 << PSCHED_SHIFT
)

// The marks of our qdiscs and filters: a qdisc has only its handle, a
// filter the cookie of its action.
const (
	ShaperHandle   = 0x50420000
	redirectCookie = "patchbay"
	// RedirectPriority is the first.
	RedirectPriority = uint16(1)
)

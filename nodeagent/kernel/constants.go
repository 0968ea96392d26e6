package kernel

// Numbers of the kernel's interface that golang.org/x/sys/unix lacks.
const (
	nlaTypeMask     = 0x3fff // NLA_TYPE_MASK, linux/netlink.h
	skipStats       = 1 << 3 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	ifaProto        = 11     // IFA_PROTO, linux/if_addr.h, Linux 5.18
	netconfaIfindex = 1      // NETCONFA_IFINDEX, linux/netconf.h
	netnsaNSID      = 1      // NETNSA_NSID, linux/net_namespace.h
	netnsaFD        = 3      // NETNSA_FD
)

// maxName is IFNAMSIZ-1.
const maxName = 15

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Tables and chains are read by netlink: nft 1.0.6 prints whatever lies in memory for
// the flags of a table, so that its JSON may be none.

// Table is a table of nftables, with its flags (NFT_TABLE_F_*).
type Table struct {
	family, name string
	Flags        uint32
}

// Dormant tables have chains that see no packet.
func (t Table) Dormant() bool { return t.Flags&nftTableDormant != 0 }

const nftTableDormant = 1

// Chain is a chain of nftables; Hook and Policy are empty where it is no base
// chain.
type Chain struct {
	Family, Table, Name, Hook, Policy string
	// Kind is its type, such as filter; Devices the interfaces of hooks that have some.
	Kind     string
	Devices  []string
	Priority int32
	Of       Table
}

func (c Chain) String() string {
	return "chain " + c.Name + " of table " + c.Family + " " + c.Table
}

// FamilyNames are the families of tables as nft calls them.
var FamilyNames = map[byte]string{unix.NFPROTO_IPV4: string(knftables.IPv4Family), unix.NFPROTO_IPV6: string(knftables.IPv6Family),
	unix.NFPROTO_INET: string(knftables.InetFamily), unix.NFPROTO_BRIDGE: string(knftables.BridgeFamily), unix.NFPROTO_NETDEV: string(knftables.NetDevFamily)}

// hookNames are the kernel's numbers of hooks, which bridges share (NF_BR_*).
var hookNames = []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

// hookName is a hook as nft calls it; netdev has numbers of its own.
func hookName(family byte, number uint32) string {
	if family == unix.NFPROTO_NETDEV && number < 2 {
		return []string{"ingress", "egress"}[number]
	}
	if number < uint32(len(hookNames)) {
		return hookNames[number]
	}
	return ""
}

// Tables reads the tables of this network namespace.
func Tables() (map[Table]bool, error) {
	tables := map[Table]bool{}
	err := dump(unix.NFT_MSG_GETTABLE, func(family byte, attrs []byte) {
		t := Table{family: FamilyNames[family], name: NameIn(attrs, unix.NFTA_TABLE_NAME)}
		for kind, v := range Attributes(attrs) {
			if kind == unix.NFTA_TABLE_FLAGS && len(v) == 4 {
				t.Flags = binary.BigEndian.Uint32(v)
			}
		}
		tables[t] = true
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return tables, nil
}

// FindTable returns the flags of a table, if it is there.
func FindTable(f knftables.Family, name string) (Table, bool, error) {
	tables, err := Tables()
	for t := range tables {
		if t.family == string(f) && t.name == name {
			return t, true, err
		}
	}
	return Table{}, false, err
}

// Chains reads the chains of all tables.
func Chains() ([]Chain, error) {
	tables, err := Tables()
	if err != nil {
		return nil, err
	}
	flagged := map[[2]string]Table{}
	for t := range tables {
		flagged[[2]string{t.family, t.name}] = t
	}
	var chains []Chain
	err = dump(unix.NFT_MSG_GETCHAIN, func(family byte, attrs []byte) {
		c := ParseChain(family, attrs)
		c.Of = flagged[[2]string{c.Family, c.Table}]
		chains = append(chains, c)
	})
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return chains, nil
}

// ParseChain reads the attributes of a chain.
func ParseChain(family byte, attrs []byte) Chain {
	c := Chain{Family: FamilyNames[family], Table: NameIn(attrs, unix.NFTA_CHAIN_TABLE), Name: NameIn(attrs, unix.NFTA_CHAIN_NAME)}
	for kind, v := range Attributes(attrs) {
		switch {
		case kind == unix.NFTA_CHAIN_HOOK:
			for kind, v := range Attributes(v) {
				switch {
				case kind == unix.NFTA_HOOK_HOOKNUM && len(v) == 4:
					c.Hook = hookName(family, binary.BigEndian.Uint32(v))
				case kind == unix.NFTA_HOOK_PRIORITY && len(v) == 4:
					c.Priority = int32(binary.BigEndian.Uint32(v))
				case kind == unix.NFTA_HOOK_DEV:
					c.Devices = append(c.Devices, text(v))
				case kind == nftaHookDevs:
					for _, v := range Attributes(v) {
						c.Devices = append(c.Devices, text(v))
					}
				}
			}
			// One device is told twice.
			slices.Sort(c.Devices)
			c.Devices = slices.Compact(c.Devices)
		case kind == unix.NFTA_CHAIN_TYPE:
			c.Kind = text(v)
		case kind == unix.NFTA_CHAIN_POLICY && len(v) == 4:
			c.Policy = []string{"drop", "accept"}[min(binary.BigEndian.Uint32(v), 1)]
		}
	}
	return c
}

// nftaHookDevs are several devices (NFTA_HOOK_DEVS).
const nftaHookDevs = 4

func text(v []byte) string { return strings.TrimRight(string(v), "\x00") }

// dump calls each with the family and the attributes of all objects of a kind, anew
// if something changed meanwhile.
func dump(kind int, each func(family byte, attrs []byte)) error {
	body := []byte{unix.AF_UNSPEC, nl.NFNETLINK_V0, 0, 0}
	var answers []syscall.NetlinkMessage
	var err error = netlink.ErrDumpInterrupted
	for n := 0; n < MaxTries && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		answers, err = Socket.Exchange(Request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP, 0, body))
		for _, m := range answers {
			if errno, ok := Errno(m); ok && errno != 0 {
				return errno
			}
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				err = netlink.ErrDumpInterrupted
			}
		}
	}
	if err != nil {
		return err
	}
	for _, m := range answers {
		if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && len(m.Data) >= nl.SizeofNfgenmsg {
			each(m.Data[0], m.Data[nl.SizeofNfgenmsg:])
		}
	}
	return nil
}

// OwnTable is the name of both our tables.
const OwnTable = "patchbay"

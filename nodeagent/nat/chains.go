package nat

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

// otherTable is a table of nftables, with its flags (NFT_TABLE_F_*).
type otherTable struct {
	family, name string
	flags        uint32
}

// dormant tables have chains that see no packet.
func (t otherTable) dormant() bool { return t.flags&nftTableDormant != 0 }

const nftTableDormant = 1

// otherChain is a chain of nftables; Hook and Policy are empty where it is no base
// chain.
type otherChain struct {
	Family, Table, Name, Hook, Policy string
	// kind is its type, such as filter; devices those of the hooks that have some.
	kind     string
	devices  []string
	priority int32
	of       otherTable
}

func (c otherChain) String() string {
	return "chain " + c.Name + " of table " + c.Family + " " + c.Table
}

var familyNames = map[byte]string{unix.NFPROTO_IPV4: string(knftables.IPv4Family), unix.NFPROTO_IPV6: string(knftables.IPv6Family),
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

// listTables reads the tables of this network namespace.
func listTables() (map[otherTable]bool, error) {
	tables := map[otherTable]bool{}
	err := dump(unix.NFT_MSG_GETTABLE, func(family byte, attrs []byte) {
		t := otherTable{family: familyNames[family], name: nameIn(attrs, unix.NFTA_TABLE_NAME)}
		for kind, v := range attributes(attrs) {
			if kind == unix.NFTA_TABLE_FLAGS && len(v) == 4 {
				t.flags = binary.BigEndian.Uint32(v)
			}
		}
		tables[t] = true
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return tables, nil
}

// findTable returns the flags of a table, if it is there.
func findTable(f knftables.Family, name string) (otherTable, bool, error) {
	tables, err := listTables()
	for t := range tables {
		if t.family == string(f) && t.name == name {
			return t, true, err
		}
	}
	return otherTable{}, false, err
}

// listChains reads the chains of all tables.
func listChains() ([]otherChain, error) {
	tables, err := listTables()
	if err != nil {
		return nil, err
	}
	flagged := map[watchedChain]otherTable{}
	for t := range tables {
		flagged[watchedChain{family: t.family, table: t.name}] = t
	}
	var chains []otherChain
	err = dump(unix.NFT_MSG_GETCHAIN, func(family byte, attrs []byte) {
		c := parseChain(family, attrs)
		c.of = flagged[watchedChain{family: c.Family, table: c.Table}]
		chains = append(chains, c)
	})
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return chains, nil
}

func parseChain(family byte, attrs []byte) otherChain {
	c := otherChain{Family: familyNames[family], Table: nameIn(attrs, unix.NFTA_CHAIN_TABLE), Name: nameIn(attrs, unix.NFTA_CHAIN_NAME)}
	for kind, v := range attributes(attrs) {
		switch {
		case kind == unix.NFTA_CHAIN_HOOK:
			for kind, v := range attributes(v) {
				switch {
				case kind == unix.NFTA_HOOK_HOOKNUM && len(v) == 4:
					c.Hook = hookName(family, binary.BigEndian.Uint32(v))
				case kind == unix.NFTA_HOOK_PRIORITY && len(v) == 4:
					c.priority = int32(binary.BigEndian.Uint32(v))
				case kind == unix.NFTA_HOOK_DEV:
					c.devices = append(c.devices, text(v))
				case kind == nftaHookDevs:
					for _, v := range attributes(v) {
						c.devices = append(c.devices, text(v))
					}
				}
			}
			// One device is told twice.
			slices.Sort(c.devices)
			c.devices = slices.Compact(c.devices)
		case kind == unix.NFTA_CHAIN_TYPE:
			c.kind = text(v)
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
	for n := 0; n < maxDumps && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		answers, err = nfnetlink.exchange(request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP, 0, body))
		for _, m := range answers {
			if errno, ok := outcome(m); ok && errno != 0 {
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

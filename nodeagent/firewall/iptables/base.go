package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// iptables-nft makes the base chains that it needs, with their table, and never
// removes them. So that nothing stays that was not there, missing base chains are made
// here before, with a comment as our mark, and go with the last rule of Patchbay where no
// other program uses them. Legacy iptables has its tables for good.

// baseChains are the hook number and priority of the base chains that hooks name.
var baseChains = map[string]map[string][2]int32{
	"raw":    {"PREROUTING": {unix.NF_INET_PRE_ROUTING, -300}},
	"filter": {"FORWARD": {unix.NF_INET_FORWARD, 0}, "OUTPUT": {unix.NF_INET_LOCAL_OUT, 0}},
	"mangle": {"PREROUTING": {unix.NF_INET_PRE_ROUTING, -150}, "FORWARD": {unix.NF_INET_FORWARD, -150}},
	"nat": {
		"PREROUTING": {unix.NF_INET_PRE_ROUTING, -100}, "OUTPUT": {unix.NF_INET_LOCAL_OUT, -100},
		"POSTROUTING": {unix.NF_INET_POST_ROUTING, 100},
	},
}

// Numbers that x/sys lacks, linux/netfilter/nf_tables.h and linux/netfilter.h.
const (
	nftaTableUserdata = 6
	nftaChainUserdata = 12
	nfAccept          = 1
)

// baseMark is nft's comment of a table or chain: type 0, length, text. The kernel
// hands it back as it is.
var baseMark = append([]byte{0, byte(len(iptsave.Mark) + 1)}, iptsave.Mark+"\x00"...)

// makeBases makes the tables and base chains of areas as far as they are missing.
// Chains that cannot be made here iptables makes, and these stay. Existing chains are
// looked up before: the kernel takes some 10 ms to refuse another.
func (b *Driver) makeBases(used map[iptsave.TableID]int) {
	if b.legacy {
		return
	}
	for _, six := range b.families {
		there := map[[2]string]bool{}
		for _, c := range slices.Concat(b.listBases(unix.NFT_MSG_GETTABLE, six), b.listBases(unix.NFT_MSG_GETCHAIN, six)) {
			there[[2]string{c.table, c.name}] = true
		}
		for _, table := range ipTables {
			a := iptsave.InTable(six, table)
			if used[a] == 0 {
				continue
			}
			if !there[[2]string{table, ""}] {
				_ = b.base(unix.NFT_MSG_NEWTABLE, a, attribute(unix.NFTA_TABLE_NAME, zeroed(table)), attribute(nftaTableUserdata, baseMark))
			}
			for chain, at := range baseChains[table] {
				if !there[[2]string{table, chain}] {
					_ = b.makeBase(a, chain, at)
				}
			}
		}
	}
}

func (b *Driver) makeBase(a iptsave.TableID, chain string, at [2]int32) error {
	kind := "filter"
	if a.Table == "nat" {
		kind = "nat"
	}
	hook := nl.NewRtAttr(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, nil)
	hook.AddRtAttr(unix.NFTA_HOOK_HOOKNUM, bigEndian(at[0]))
	hook.AddRtAttr(unix.NFTA_HOOK_PRIORITY, bigEndian(at[1]))
	return b.base(unix.NFT_MSG_NEWCHAIN, a,
		attribute(unix.NFTA_CHAIN_TABLE, zeroed(a.Table)), attribute(unix.NFTA_CHAIN_NAME, zeroed(chain)), hook.Serialize(),
		attribute(unix.NFTA_CHAIN_POLICY, bigEndian(nfAccept)), attribute(unix.NFTA_CHAIN_TYPE, zeroed(kind)),
		attribute(nftaChainUserdata, baseMark))
}

// dropBases removes tables and base chains that bear our mark from areas without one of
// our rules. The kernel keeps chains that another program uses.
func (b *Driver) dropBases(used map[iptsave.TableID]int) error {
	if b.legacy {
		return nil
	}
	for _, six := range b.families {
		for _, c := range b.listBases(unix.NFT_MSG_GETCHAIN, six) {
			a := iptsave.InTable(six, c.table)
			if used[a] > 0 || !c.ours || !c.accepts {
				continue
			}
			err := b.base(unix.NFT_MSG_DELCHAIN, a, attribute(unix.NFTA_CHAIN_TABLE, zeroed(c.table)), attribute(unix.NFTA_CHAIN_NAME, zeroed(c.name)))
			if err := unlessKept(err); err != nil {
				return fmt.Errorf("remove chain %s of table %s: %w", c.name, a, err)
			}
		}
		for _, t := range b.listBases(unix.NFT_MSG_GETTABLE, six) {
			a := iptsave.InTable(six, t.table)
			if used[a] > 0 || !t.ours {
				continue
			}
			if err := unlessKept(b.base(unix.NFT_MSG_DELTABLE, a, attribute(unix.NFTA_TABLE_NAME, zeroed(t.table)))); err != nil {
				return fmt.Errorf("remove table %s: %w", a, err)
			}
		}
	}
	return nil
}

// unlessKept forgives that something is in use, or gone already.
func unlessKept(err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// base is a table, or a chain of it. Chains without a policy accept nothing.
type base struct {
	table, name   string
	ours, accepts bool
}

// listBases lists the tables or chains of a family, in tables that are named like the
// tables of iptables.
func (b *Driver) listBases(kind int, six bool) []base {
	body := []byte{protoFamily(six), nl.NFNETLINK_V0, 0, 0}
	answers, err := nfnl.Socket.Exchange(nfnl.Request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP, 1, body))
	if err != nil {
		return nil
	}
	var list []base
	for _, m := range answers {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nl.SizeofNfgenmsg {
			continue
		}
		if one := parseBase(kind, m.Data[nl.SizeofNfgenmsg:]); hooks[one.table] != nil {
			list = append(list, one)
		}
	}
	return list
}

func parseBase(kind int, attrs []byte) base {
	one, mark := base{}, uint16(nftaTableUserdata)
	if kind == unix.NFT_MSG_GETCHAIN {
		mark = nftaChainUserdata
	}
	for t, v := range nfnl.Attributes(attrs) {
		switch {
		case t == mark:
			one.ours = bytes.Equal(v, baseMark)
		case t == unix.NFTA_TABLE_NAME: // and NFTA_CHAIN_TABLE
			one.table = unix.ByteSliceToString(v)
		case kind == unix.NFT_MSG_GETCHAIN && t == unix.NFTA_CHAIN_NAME:
			one.name = unix.ByteSliceToString(v)
		case kind == unix.NFT_MSG_GETCHAIN && t == unix.NFTA_CHAIN_POLICY && len(v) == 4:
			one.accepts = binary.BigEndian.Uint32(v) == nfAccept
		}
	}
	return one
}

// base makes or removes one table or chain of an area. An existing table or chain
// is not made again, and one that holds anything is not removed.
func (b *Driver) base(kind int, a iptsave.TableID, attrs ...[]byte) error {
	flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if kind == unix.NFT_MSG_DELTABLE || kind == unix.NFT_MSG_DELCHAIN {
		flags = unix.NLM_F_NONREC
	}
	frame := []byte{unix.AF_UNSPEC, nl.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	batch := nfnl.Request(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, frame)
	body := append([]byte{protoFamily(a.Six), nl.NFNETLINK_V0, 0, 0}, bytes.Join(attrs, nil)...)
	batch = append(batch, nfnl.Request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags|unix.NLM_F_ACK, 1, body)...)
	batch = append(batch, nfnl.Request(unix.NFNL_MSG_BATCH_END, 0, 2, frame)...)
	return b.own(1, func() error {
		answers, err := nfnl.Socket.Exchange(batch)
		if err != nil {
			return err
		}
		for _, m := range answers {
			if errno, ok := nfnl.Errno(m); ok && errno != 0 {
				return errno
			}
		}
		b.opts.Step()
		return nil
	})
}

func protoFamily(six bool) byte {
	if six {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func attribute(kind int, value []byte) []byte { return nl.NewRtAttr(kind, value).Serialize() }

func zeroed(s string) []byte { return append([]byte(s), 0) }

func bigEndian(v int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }

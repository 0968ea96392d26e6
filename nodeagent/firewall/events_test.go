package firewall

import (
	"encoding/binary"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"golang.org/x/sys/unix"
)

// message is a netlink message with one attribute.
func message(kind uint16, family byte, attribute uint16, value []byte) []byte {
	b := []byte{family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, attribute)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	h := binary.NativeEndian.AppendUint32(nil, uint32(16+len(b)))
	h = binary.NativeEndian.AppendUint16(h, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	return append(append(h, make([]byte, 10)...), b...)
}

func TestEvents(t *testing.T) {
	name := []byte(nfnl.OwnTable + "\x00")
	generation := func(n byte) []byte {
		return message(unix.NFT_MSG_NEWGEN, 0, unix.NFTA_GEN_ID, []byte{0, 0, 0, n})
	}
	e := nfnl.Events{Look: nftables.Ours}
	ended, touched, _ := e.Parse(append(message(unix.NFT_MSG_NEWTABLE, unix.NFPROTO_INET, 1, []byte("other\x00")), generation(5)...))
	firewalltest.Same(t, "another table", []any{uint32(5), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.Parse(append(message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, 1, name), generation(6)...))
	firewalltest.Same(t, "another family", []any{uint32(6), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.Parse(message(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_BRIDGE, 1, name))
	firewalltest.Same(t, "not yet ended", []any{uint32(0), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.Parse(append(generation(7), generation(8)...))
	firewalltest.Same(t, "ended", []any{uint32(8), []uint32{7}}, []any{ended, touched})
}

func FuzzEvents(f *testing.F) {
	f.Add(message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_INET, 1, []byte(nfnl.OwnTable+"\x00")), message(unix.NFT_MSG_NEWGEN, 0, unix.NFTA_GEN_ID, []byte{0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		chains := &iptables.Driver{}
		for _, look := range []nfnl.Look{nftables.Ours, iptables.AboutIPTables, chains.Look} {
			e := nfnl.Events{Look: look}
			e.Parse(first)
			e.Parse(second)
		}
	})
}

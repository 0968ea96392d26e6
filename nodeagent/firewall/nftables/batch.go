package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// edit is the statement that adds an element or removes it.
type edit struct {
	id
	book.Held
	remove bool
}

func (e edit) script(tx *knftables.Transaction) {
	if e.remove {
		tx.Delete(e.element(book.Held{}))
	} else {
		tx.Add(e.element(e.Held))
	}
}

func (e edit) String() string {
	if e.remove {
		return "delete element " + e.id.String()
	}
	return "add element " + e.id.String()
}

// run commits statements in one transaction: by netlink what it can express, which
// spares a run of nft. What the kernel refuses then is nft's to try and to explain.
func (b *Driver) run(ctx context.Context, statements []statement) error {
	var refused error
	if edits, ok := onlyEdits(statements); ok && ctx.Err() == nil {
		if refused = b.commit(edits); refused == nil {
			return nil
		}
		if b.Refused != nil {
			b.Refused(refused)
		}
	}
	text, err := scriptOf(statements)
	if err == nil {
		_, err = program.Run(ctx, text, b.path, "-f", "-")
	}
	if err != nil && refused != nil {
		return fmt.Errorf("%w (by netlink: %w)", err, refused)
	}
	return err
}

// scriptOf is a transaction as nft reads it.
func scriptOf(statements []statement) (string, error) {
	// Its other implementation runs nft without a deadline; the text is the same.
	tx := knftables.NewFake("", "").NewTransaction()
	for _, s := range statements {
		s.script(tx)
	}
	if tx.NumOperations() != len(statements) {
		return "", fmt.Errorf("write %d statements for nft: %s", len(statements), tx)
	}
	return tx.String(), nil
}

// onlyEdits returns the statements as edits that netlink can express. Intervals stay
// with nft, which keeps them as pairs of elements that depend on their neighbours.
func onlyEdits(statements []statement) ([]edit, bool) {
	edits := make([]edit, 0, len(statements))
	for _, s := range statements {
		e, ok := s.(edit)
		if !ok || setByName[e.set].interval {
			return nil, false
		}
		edits = append(edits, e)
	}
	return edits, true
}

// commit makes all edits by netlink, or none.
func commit(edits []edit) error {
	batch, err := encodeBatch(edits)
	if err != nil {
		return err
	}
	answers, err := nfnl.Socket.Exchange(batch)
	if err != nil {
		return fmt.Errorf("commit %d elements: %w", len(edits), err)
	}
	answered := false
	for _, m := range answers {
		errno, ok := nfnl.Errno(m)
		seq := int(m.Header.Seq)
		switch {
		case ok && errno == 0:
			answered = answered || seq == len(edits)
		case ok && seq >= 1 && seq <= len(edits):
			return fmt.Errorf("%s: %w", edits[seq-1], errno)
		case ok:
			// What befalls the batch as a whole is said of its beginning.
			return fmt.Errorf("commit %d elements: %w", len(edits), errno)
		}
	}
	if !answered {
		return fmt.Errorf("commit %d elements: no answer", len(edits))
	}
	return nil
}

// encodeBatch gives the edits the sequence numbers from 1 on. The kernel answers
// for each that fails, and for the last one in any case.
func encodeBatch(edits []edit) ([]byte, error) {
	frame := []byte{unix.AF_UNSPEC, nl.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	batch := nfnl.Request(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, frame)
	for i, e := range edits {
		body, err := e.encode()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e, err)
		}
		kind, flags := unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE
		if e.remove {
			kind, flags = unix.NFT_MSG_DELSETELEM, 0
		}
		if i == len(edits)-1 {
			flags |= unix.NLM_F_ACK
		}
		batch = append(batch, nfnl.Request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, i+1, body)...)
	}
	return append(batch, nfnl.Request(unix.NFNL_MSG_BATCH_END, 0, len(edits)+1, frame)...), nil
}

var protoFamilies = map[knftables.Family]byte{knftables.InetFamily: unix.NFPROTO_INET, knftables.BridgeFamily: unix.NFPROTO_BRIDGE}

// encode is the body of the edit's message, as nft writes it.
func (e edit) encode() ([]byte, error) {
	d := setByName[e.set]
	key, err := encodeFields(d.key, e.key)
	if err != nil {
		return nil, err
	}
	list := nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, nil)
	element := list.AddRtAttr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nil)
	element.AddRtAttr(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_DATA_VALUE, key)
	if d.value != nil && !e.remove {
		value, err := encodeFields(d.value, e.Value)
		if err != nil {
			return nil, err
		}
		element.AddRtAttr(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_DATA_VALUE, value)
	}
	if text := nl.ZeroTerminated(commentOf(e.Held)); len(text) > 1 && !e.remove {
		element.AddRtAttr(unix.NFTA_SET_ELEM_USERDATA, append([]byte{udataComment, byte(len(text))}, text...))
	}
	return slices.Concat([]byte{protoFamilies[d.family], nl.NFNETLINK_V0, 0, 0},
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(nfnl.OwnTable)).Serialize(),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(e.set)).Serialize(),
		list.Serialize()), nil
}

// udataComment is NFTNL_UDATA_SET_ELEM_COMMENT of libnftnl's udata.h: the kernel
// keeps an element's user data, and knows nothing of comments.
const udataComment = 0

// encodeFields is a key or value in the kernel's form; if it has several parts,
// each begins at a multiple of four bytes (netlink_padded_len of nft).
func encodeFields(fields []field, text string) ([]byte, error) {
	parts := split(text)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("encode %q: it has not %d parts", text, len(fields))
	}
	var out []byte
	for i, f := range fields {
		b, err := encodeField(f, parts[i])
		if err != nil {
			return nil, fmt.Errorf("encode %q as %s: %w", parts[i], f, err)
		}
		out = append(out, b...)
		for len(fields) > 1 && len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out, nil
}

func encodeField(f field, text string) ([]byte, error) {
	switch f {
	case fieldLink:
		return append([]byte(text), make([]byte, unix.IFNAMSIZ)...)[:unix.IFNAMSIZ], book.CheckLink(text)
	case fieldMAC:
		m, err := netstate.ParseMAC(text)
		return m[:], err
	case fieldIPv4, fieldIPv6, fieldTarget:
		a, err := netip.ParseAddr(text)
		if err == nil && a.Is4() != (f == fieldIPv4) {
			err = errors.New("it is of the other family")
		}
		return a.AsSlice(), err
	case fieldPort:
		n, err := strconv.ParseUint(text, 10, 16)
		return binary.BigEndian.AppendUint16(nil, uint16(n)), err
	case fieldSlot:
		// The kernel's number generator counts in the host's order.
		n, err := strconv.ParseUint(text, 10, 32)
		return binary.NativeEndian.AppendUint32(nil, uint32(n)), err
	case fieldProto:
		if n, ok := conntrack.Protocols[text]; ok {
			return []byte{n}, nil
		}
	case fieldFamily:
		switch netstate.Family(text) {
		case netstate.IPv4:
			return []byte{unix.NFPROTO_IPV4}, nil
		case netstate.IPv6:
			return []byte{unix.NFPROTO_IPV6}, nil
		}
	}
	return nil, errors.New("there is no such value")
}

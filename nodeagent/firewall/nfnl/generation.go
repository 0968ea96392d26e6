package nfnl

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Generation is the number of the last transaction, of any program, that changed the
// nftables ruleset of this network namespace.
func Generation() (uint32, error) {
	body := []byte{unix.AF_UNSPEC, nl.NFNETLINK_V0, 0, 0}
	answers, err := Socket.Exchange(Request(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, 0, body))
	if err != nil {
		return 0, fmt.Errorf("get the ruleset's generation: %w", err)
	}
	for _, m := range answers {
		if errno, ok := Errno(m); ok {
			return 0, fmt.Errorf("get the ruleset's generation: %w", errno)
		}
		if g, ok := parseGeneration(m.Data); ok {
			return g, nil
		}
	}
	return 0, fmt.Errorf("get the ruleset's generation: no answer")
}

// parseGeneration reads a message from its nfgenmsg on.
func parseGeneration(message []byte) (uint32, bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return 0, false
	}
	for t, v := range Attributes(message[nl.SizeofNfgenmsg:]) {
		if t == unix.NFTA_GEN_ID && len(v) == 4 {
			return binary.BigEndian.Uint32(v), true
		}
	}
	return 0, false
}

// Attributes yields the types and values of netlink attributes up to the first
// malformed one.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}

// maxOwn bounds the generations that are remembered; events arrive within
// milliseconds.
const maxOwn = 1024

// Generations remembers which generations of the ruleset were our own doing.
type Generations struct {
	Mu    sync.Mutex
	ids   map[uint32]bool
	order []uint32
}

// Own runs one of our transactions. While it runs, Foreign waits. A transaction of another
// program in between makes both foreign.
func (g *Generations) Own(run func() error) error { return g.OwnAll(1, run) }

// OwnAll is Own for n transactions.
func (g *Generations) OwnAll(n int, run func() error) error {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	before, err := Generation()
	if err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	var ids []uint32
	for id := before; len(ids) < n; ids = append(ids, id) {
		id = next(id)
	}
	if after, err := Generation(); err == nil && n > 0 && after == ids[n-1] {
		for _, id := range ids {
			g.remember(id)
		}
	}
	return nil
}

func (g *Generations) remember(id uint32) {
	if g.ids == nil {
		g.ids = map[uint32]bool{}
	}
	g.ids[id] = true
	g.order = append(g.order, id)
	if len(g.order) > maxOwn {
		delete(g.ids, g.order[0])
		g.order = g.order[1:]
	}
}

// foreign reports whether any of the generations is another program's.
func (g *Generations) foreign(ids []uint32) bool {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	for _, id := range ids {
		if !g.ids[id] {
			return true
		}
	}
	return false
}

// foreignSince reports whether any generation after the given one, up to the
// present, is another program's.
func (g *Generations) foreignSince(seen uint32) bool {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	now, err := Generation()
	if err != nil || now-seen > maxOwn {
		return true
	}
	for id := seen; id != now; {
		if id = next(id); !g.ids[id] {
			return true
		}
	}
	return false
}

// next is the generation that follows; the kernel leaves out zero.
func next(id uint32) uint32 { return max(id+1, 1) }

// NameIn is an attribute that is a name.
func NameIn(attrs []byte, of uint16) string {
	for t, v := range Attributes(attrs) {
		if t == of {
			return text(v)
		}
	}
	return ""
}

package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (b *nftables) Watch(ctx context.Context, fn func()) error {
	return watchEvents(ctx, &b.gens, ours, fn)
}

// watchEvents calls fn for every transaction of somebody else's with an event
// that is about something of ours.
func watchEvents(ctx context.Context, gens *generations, about about, fn func()) error {
	seen, err := Generation()
	if err != nil {
		return err
	}
	socket, err := subscribe()
	if err != nil {
		return fmt.Errorf("subscribe to nftables events: %w", err)
	}
	w := &watch{gens: gens, about: about, seen: seen, wake: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		defer stop()
		defer socket.Close()
		defer close(w.wake)
		w.read(ctx, socket)
	}()
	go w.decide(ctx, fn)
	return nil
}

// eventBuffer is what the socket may hold: a transaction of 1,000 elements tells
// of each.
const eventBuffer = 4 << 20

// subscribe opens a socket that hears of every change of the ruleset.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer) != nil {
		// A user namespace gets what net.core.rmem_max allows, which is enough.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	}
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	if err := unix.Bind(fd, address); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables events"), nil
}

// watch is one call of Watch. Reading never waits for deciding, which waits for
// transactions of ours to end; else the socket would overflow.
type watch struct {
	gens  *generations
	about about
	wake  chan struct{}

	mu sync.Mutex
	// touched generations changed our tables; lost events may have.
	touched []uint32
	lost    bool
	// seen is the last generation up to which nothing was lost.
	seen uint32
}

// maxEvent is the size of the largest message that the kernel makes of several
// events (NLMSG_GOODSIZE), with room.
const maxEvent = 1 << 16

func (w *watch) read(ctx context.Context, socket *os.File) {
	buffer := make([]byte, maxEvent)
	e := events{about: w.about}
	for {
		n, err := socket.Read(buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			e = events{about: w.about}
			w.note(func() { w.lost = true })
		case err != nil:
			if ctx.Err() == nil {
				w.note(func() { w.lost = true })
			}
			return
		default:
			ended, touched := e.parse(buffer[:n])
			w.note(func() {
				w.touched = append(w.touched, touched...)
				if ended != 0 && !w.lost {
					w.seen = ended
				}
			})
		}
	}
}

func (w *watch) note(change func()) {
	w.mu.Lock()
	change()
	pending := w.lost || len(w.touched) > 0
	w.mu.Unlock()
	if !pending {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) decide(ctx context.Context, fn func()) {
	for range w.wake {
		w.mu.Lock()
		touched, lost, seen := w.touched, w.lost, w.seen
		w.touched, w.lost = nil, false
		w.mu.Unlock()
		foreign := w.gens.foreign(touched) || lost && w.gens.foreignSince(seen)
		if foreign && ctx.Err() == nil {
			fn()
		}
	}
}

// events reads the messages of a subscription, in their order. The events of a
// transaction are followed by its generation.
type events struct {
	about   about
	touched bool
}

// about reports whether a message of some kind is about something of ours.
type about func(kind uint16, body []byte) bool

// parse reads messages. It returns the last generation that ended in them, zero
// if none, and those of them that touched a table of ours.
func (e *events) parse(b []byte) (ended uint32, touched []uint32) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return ended, touched
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		body := b[unix.NLMSG_HDRLEN:size]
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		if kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			e.touched = e.touched || e.about(kind, body)
			continue
		}
		if g, ok := parseGeneration(body); ok {
			ended = g
			if e.touched {
				touched = append(touched, g)
			}
		}
		e.touched = false
	}
	return ended, touched
}

// ours reports whether an event is about a table of ours. The table's name is
// attribute 1 of every kind of nftables event.
func ours(kind uint16, body []byte) bool {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < nl.SizeofNfgenmsg {
		return false
	}
	if body[0] != unix.NFPROTO_INET && body[0] != unix.NFPROTO_BRIDGE {
		return false
	}
	for t, v := range attributes(body[nl.SizeofNfgenmsg:]) {
		if t == unix.NFTA_TABLE_NAME {
			return string(v) == tableName+"\x00"
		}
	}
	return false
}

package nfnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watched says which events are watched, and whether those about forwarded packets
// did change what other programs do to them.
type Watched struct {
	Look    Look
	Changed func(context.Context) bool
}

// Watch calls fn for every transaction of another program with an event
// that is about one of our objects, or that changes what becomes of forwarded packets.
func Watch(ctx context.Context, gens *Generations, what Watched, fn func()) error {
	seen, err := Generation()
	if err != nil {
		return err
	}
	socket, err := subscribe()
	if err != nil {
		return fmt.Errorf("subscribe to nftables events: %w", err)
	}
	w := &watcher{gens: gens, Watched: what, seen: seen, wake: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		defer stop()
		defer socket.Close()
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

// watcher is one call of Watch. Reading never waits for deciding, which waits for
// our transactions to end; else the socket would overflow.
type watcher struct {
	Watched
	gens *Generations
	wake chan struct{}

	mu sync.Mutex
	// touched generations changed our tables; lost events may have.
	touched []uint32
	lost    bool
	// forward is set when what other programs do to forwarded packets may have changed.
	forward bool
	// seen is the last generation up to which nothing was lost.
	seen uint32
}

// maxEvent is the size of the largest message that the kernel makes of several
// Events (NLMSG_GOODSIZE), with room.
const maxEvent = 1 << 16

func (w *watcher) read(ctx context.Context, socket *os.File) {
	buffer := make([]byte, maxEvent)
	e := Events{Look: w.Look}
	for {
		n, err := socket.Read(buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			e = Events{Look: w.Look}
			w.note(func() { w.lost = true })
		case err != nil:
			if ctx.Err() == nil {
				w.note(func() { w.lost = true })
			}
			return
		default:
			ended, touched, forward := e.Parse(buffer[:n])
			if w.gens.foreign(forward) {
				time.AfterFunc(forwardPause, func() { w.note(func() { w.forward = true }) })
			}
			w.note(func() {
				w.touched = append(w.touched, touched...)
				if ended != 0 && !w.lost {
					w.seen = ended
				}
			})
		}
	}
}

func (w *watcher) note(change func()) {
	w.mu.Lock()
	change()
	pending := w.lost || w.forward || len(w.touched) > 0
	w.mu.Unlock()
	if !pending {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) decide(ctx context.Context, fn func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		touched, lost, seen, forward := w.touched, w.lost, w.seen, w.forward
		w.touched, w.lost, w.forward = nil, false, false
		w.mu.Unlock()
		foreign := w.gens.foreign(touched) || lost && w.gens.foreignSince(seen) || forward && w.Changed(ctx)
		if foreign && ctx.Err() == nil {
			fn()
		}
	}
}

// Events reads the messages of a subscription, in their order. The events of a
// transaction are followed by its generation.
type Events struct {
	Look             Look
	touched, forward bool
}

// Look says whether an event of nftables is about one of our objects, and whether
// it is about what other programs do to forwarded packets.
type Look func(kind uint16, body []byte) (touched, forward bool)

// Parse reads messages. It returns the last generation that ended in them, zero
// if none, the generations that touched one of our tables, and the generations that touched
// what other programs do to forwarded packets.
func (e *Events) Parse(b []byte) (ended uint32, touched, forward []uint32) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return ended, touched, forward
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		body := b[unix.NLMSG_HDRLEN:size]
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		if kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			touched, forward := e.Look(kind, body)
			e.touched, e.forward = e.touched || touched, e.forward || forward
			continue
		}
		if g, ok := parseGeneration(body); ok {
			ended = g
			if e.touched {
				touched = append(touched, g)
			}
			if e.forward {
				forward = append(forward, g)
			}
		}
		e.touched, e.forward = false, false
	}
	return ended, touched, forward
}

// TableOf is the family and name of the table that an event is about, and its
// attributes; the name is the first of them for every kind of event.
func TableOf(kind uint16, body []byte) (family byte, table string, attrs []byte) {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < nl.SizeofNfgenmsg {
		return 0, "", nil
	}
	attrs = body[nl.SizeofNfgenmsg:]
	for t, v := range Attributes(attrs) {
		if t == unix.NFTA_TABLE_NAME {
			return body[0], strings.TrimSuffix(string(v), "\x00"), attrs
		}
	}
	return 0, "", nil
}

// forwardPause gathers changes of what other programs do to forwarded packets: a service
// proxy may change its rules all the time.
const forwardPause = 300 * time.Millisecond

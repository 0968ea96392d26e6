package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// events are the runtime's events, if it has any. Only the fact that an event came is used,
// not its content.
type events struct {
	// seen has an entry if there were events since it was last looked at.
	seen   chan struct{}
	opened atomic.Pointer[time.Time]
	stop   func()
}

// follow subscribes to the runtime's events until stop, which waits for the
// end. A subscription that fails is tried again.
func follow(ctx context.Context, c *client, p pace, failed func(error)) *events {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	e := &events{seen: make(chan struct{}, 1)}
	e.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		if c.sharesEvents() {
			return
		}
		for pause := p.poll; ctx.Err() == nil; pause = min(2*pause, p.resync) {
			err := e.receive(ctx, c)
			if ctx.Err() != nil {
				return
			}
			// Some have no events, and CRI-O ends the stream where it is told not to
			// make any: they are asked at intervals.
			if status.Code(err) != codes.Unimplemented && !errors.Is(err, io.EOF) {
				failed(fmt.Errorf("follow the events of the container runtime at %s: %w", c.socket, err))
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}()
	return e
}

// receive notes the events of one subscription, until its end.
func (e *events) receive(ctx context.Context, c *client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return err
	}
	now := time.Now()
	e.opened.Store(&now)
	defer e.notify()
	defer e.opened.Store(nil)
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		e.notify()
	}
}

func (e *events) notify() {
	select {
	case e.seen <- struct{}{}:
	default:
	}
}

// openFor says whether there is a subscription that has lasted for a while.
func (e *events) openFor(d time.Duration) bool {
	opened := e.opened.Load()
	return opened != nil && time.Since(*opened) >= d
}

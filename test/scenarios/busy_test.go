package scenarios

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// A busy connection is one whose ends both send all the time: a gap in the
// firewall does not find it silent, in either direction.
type busy struct{ client, server *chatter }

func connectBusy(from, to netlab.Netns, addr, via string) (conversation, error) {
	client, server, err := netlab.Join(from, to, addr, via)
	if err != nil {
		return nil, err
	}
	b := busy{chat(client), chat(server)}
	if _, err := b.ask(alivePatience); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// ask waits until what each end sends from now on has arrived at the other.
func (b busy) ask(patience time.Duration) (string, error) {
	there, back := b.client.sent.Load(), b.server.sent.Load()
	return "", netlab.Retry(patience, func() error {
		if err := errors.Join(b.client.failure(), b.server.failure()); err != nil {
			return err
		}
		if b.server.received.Load() <= there || b.client.received.Load() <= back {
			return netlab.Refuted("the connection is silent")
		}
		return nil
	})
}

func (b busy) Close() error { return errors.Join(b.client.conn.Close(), b.server.conn.Close()) }

// chatter is one end of a busy connection.
type chatter struct {
	conn           net.Conn
	sent, received atomic.Int64
	failed         atomic.Pointer[error]
}

func chat(conn net.Conn) *chatter {
	c := &chatter{conn: conn}
	go c.send()
	go c.receive()
	return c
}

func (c *chatter) failure() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

const chatEvery = 5 * time.Millisecond

func (c *chatter) send() {
	for ; ; time.Sleep(chatEvery) {
		// Counted before: bytes on their way were not sent from now on.
		c.sent.Add(1)
		if _, err := c.conn.Write([]byte{'.'}); err != nil {
			c.failed.Store(&err)
			return
		}
	}
}

func (c *chatter) receive() {
	buf := make([]byte, 2048)
	for {
		n, err := c.conn.Read(buf)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			c.failed.Store(&err)
			return
		}
		c.received.Add(int64(n))
	}
}

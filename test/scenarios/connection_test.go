package scenarios

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"golang.org/x/sys/unix"
)

// A conversation is open until the script ends.
type conversation interface {
	// ask sends bytes now and returns the other end's answer.
	ask(patience time.Duration) (string, error)
	Close() error
}

func connect(c call) (output, error) {
	open := connectTCP
	if len(c.args) > 0 && kindsOfConnection[c.args[0]] != nil {
		open, c.args = kindsOfConnection[c.args[0]], c.args[1:]
	}
	if c.neg || len(c.args) < 4 || len(c.args) > 5 {
		return output{}, errUsage
	}
	conv, err := open(netlab.Netns(c.args[1]), netlab.Netns(c.args[2]), c.args[3], c.args[len(c.args)-1])
	if err != nil {
		return output{}, err
	}
	c.state.open[c.args[0]] = conv
	c.Defer(func() { conv.Close() })
	return output{}, nil
}

var kindsOfConnection = map[string]func(from, to netlab.Netns, addr, via string) (conversation, error){"-udp": connectUDP, "-busy": connectBusy}

func alive(c call) (output, error) {
	if len(c.args) != 1 {
		return output{}, errUsage
	}
	conv := c.state.open[c.args[0]]
	if conv == nil {
		return output{}, fmt.Errorf("no connection %s", c.args[0])
	}
	patience := alivePatience
	if c.neg {
		patience = refusalPatience
	}
	out, err := conv.ask(patience)
	if err != nil {
		return output{}, netlab.Refutation{Err: errors.Join(fmt.Errorf("connection %s", c.args[0]), err)}
	}
	return output{out: out}, nil
}

const alivePatience = 2 * time.Second

// echoed is a connection whose other end sends back what arrives.
type echoed struct{ client, server net.Conn }

func connectTCP(from, to netlab.Netns, addr, via string) (conversation, error) {
	client, server, err := netlab.Join(from, to, addr, via)
	if err != nil {
		return nil, err
	}
	go io.Copy(server, server)
	return echoed{client, server}, nil
}

func (e echoed) ask(patience time.Duration) (string, error) {
	if err := e.client.SetDeadline(time.Now().Add(netlab.Stretched(patience))); err != nil {
		return "", err
	}
	buf := []byte("are you there?")
	_, err := e.client.Write(buf)
	if err == nil {
		_, err = io.ReadFull(e.client, buf)
	}
	return "", err
}

// beyond sends a segment that conntrack takes for no part of a connection, though its
// ports say so: numbers by chance are in no end's window.
func beyond(c call) (output, error) {
	if c.neg || len(c.args) != 3 {
		return output{}, errUsage
	}
	conv, ok := c.state.open[c.args[0]].(echoed)
	if !ok {
		return output{}, fmt.Errorf("no TCP connection %s", c.args[0])
	}
	end := map[string]net.Conn{"client": conv.client, "server": conv.server}[c.args[1]]
	if end == nil {
		return output{}, errUsage
	}
	from, to := end.LocalAddr().(*net.TCPAddr).AddrPort(), end.RemoteAddr().(*net.TCPAddr).AddrPort()
	from, to = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	numbers := make([]byte, 8)
	if _, err := rand.Read(numbers); err != nil {
		return output{}, err
	}
	network := "ip4:tcp"
	if from.Addr().Is6() {
		network = "ip6:tcp"
	}
	return output{}, netlab.Netns(c.args[2]).Do(func() error {
		raw, err := net.DialIP(network, &net.IPAddr{IP: from.Addr().AsSlice()}, &net.IPAddr{IP: to.Addr().AsSlice()})
		if err != nil {
			return err
		}
		defer raw.Close()
		_, err = raw.Write(segmentOf(from, to, tcpACK|tcpPSH, numbers, []byte("stray")))
		return err
	})
}

func (e echoed) Close() error { return errors.Join(e.client.Close(), e.server.Close()) }

// datagrams are a UDP flow that never pauses, so that its entry of conntrack never
// ends. Each datagram is numbered, and so are the answers.
type datagrams struct {
	conn   net.Conn
	server io.Closer
	sent   atomic.Int64

	mu     sync.Mutex
	latest int64
	answer string
}

const sendEvery = 20 * time.Millisecond

func connectUDP(from, to netlab.Netns, addr, via string) (conversation, error) {
	d := &datagrams{}
	var err error
	if d.server, err = netlab.Serve(to, "udp", addr, string(to)); errors.Is(err, unix.EADDRINUSE) {
		d.server, err = io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	if d.conn, err = netlab.Dial(from, "udp", via); err != nil {
		return nil, errors.Join(err, d.server.Close())
	}
	go d.send()
	go d.receive()
	if _, err := d.ask(alivePatience); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// send goes on when the network refuses a datagram.
func (d *datagrams) send() {
	for {
		if _, err := fmt.Fprintln(d.conn, d.sent.Add(1)); errors.Is(err, net.ErrClosed) {
			return
		}
		time.Sleep(sendEvery)
	}
}

func (d *datagrams) receive() {
	buf := make([]byte, 2048)
	for {
		n, err := d.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		text, number, _ := strings.Cut(string(buf[:n]), netlab.Asked)
		if seq, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64); err == nil {
			d.mu.Lock()
			d.latest, d.answer = max(d.latest, seq), text
			d.mu.Unlock()
		}
	}
}

// ask waits for the answer to a datagram that is sent from now on.
func (d *datagrams) ask(patience time.Duration) (string, error) {
	now := d.sent.Load()
	var answer string
	err := netlab.Retry(patience, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if answer = d.answer; d.latest <= now {
			return netlab.Refuted("no answer to datagram %d or a later one", now+1)
		}
		return nil
	})
	return answer, err
}

func (d *datagrams) Close() error { return errors.Join(d.conn.Close(), d.server.Close()) }

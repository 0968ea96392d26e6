package scenarios

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// dialPatience is how long an answer is awaited on an idle machine, and refusalPatience
// how long where the script expects none: an answer takes a millisecond.
const (
	dialPatience    = time.Second
	refusalPatience = 400 * time.Millisecond
)

// patience is how long c awaits an answer.
func (c call) patience() time.Duration {
	if c.neg {
		return stretched(refusalPatience)
	}
	return stretched(dialPatience)
}

func ping(c call) (output, error) {
	if len(c.args) != 2 {
		return output{}, errUsage
	}
	if _, err := netip.ParseAddr(c.args[1]); err != nil {
		return output{}, err
	}
	args := []string{"-n", "-q", "-c1", "-W1", c.args[1]}
	if c.neg {
		args = []string{"-n", "-q", "-c2", "-i0.2", "-W0.5", c.args[1]}
	}
	out, err := runIn(c.args[0], "ping", args...)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		return output{out: out}, err
	}
	if c.neg && strings.Contains(out, " received") && !strings.Contains(out, " 0 received") {
		return output{out: out}, nil
	}
	return output{out: out}, refutation{err}
}

func serve(c call) (output, error) {
	if c.neg || len(c.args) < 3 || len(c.args) > 4 {
		return output{}, errUsage
	}
	where, proto, addr := c.args[0], c.args[1], c.args[2]
	text := strings.Join(c.args[3:], "")
	start := map[string]func(string, string) (io.Closer, error){"tcp": serveTCP, "udp": serveUDP, "http": serveHTTP, "sctp": serveSCTP}[proto]
	if start == nil {
		return output{}, errUsage
	}
	return output{}, in(where, func() error {
		server, err := start(addr, text)
		if err == nil {
			c.Defer(func() { server.Close() })
		}
		return err
	})
}

// asked goes before the request in the answer to a datagram.
const asked = "asked "

func answer(peer net.Addr, text string) string {
	p, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return fmt.Sprintf("peer %v\n%s\n", peer, text)
	}
	return fmt.Sprintf("peer %s\n%s\n", p.Addr().Unmap(), text)
}

func serveTCP(addr, text string) (io.Closer, error) { return serveStreams("tcp", addr, text) }

func serveUDP(addr, text string) (io.Closer, error) { return serveDatagrams("udp", addr, text) }

func serveStreams(network, addr, text string) (io.Closer, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, answer(conn.RemoteAddr(), text))
			conn.Close()
		}
	}()
	return l, nil
}

func serveDatagrams(network, addr, text string) (io.Closer, error) {
	conn, err := net.ListenPacket(network, addr)
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				conn.WriteTo([]byte(answer(peer, text)+asked+string(buf[:n])), peer)
			}
		}
	}()
	return conn, nil
}

func serveHTTP(addr, text string) (io.Closer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(r.RemoteAddr))
		io.WriteString(w, answer(peer, text))
	})}
	go server.Serve(l)
	return server, nil
}

func dial(c call) (output, error) {
	if len(c.args) < 3 || len(c.args) > 4 {
		return output{}, errUsage
	}
	if _, err := netip.ParseAddrPort(c.args[2]); err != nil {
		return output{}, err
	}
	want, err := regexp.Compile("(?m)" + strings.Join(c.args[3:], ""))
	if err != nil {
		return output{}, err
	}
	ask, patience := askStream, c.patience()
	if c.args[1] == "sctp" {
		ask = func(where, _, addr string, patience time.Duration) (string, error) {
			return askSCTP(where, addr, patience)
		}
	}
	got, err := ask(c.args[0], c.args[1], c.args[2], patience)
	if err == nil && !want.MatchString(got) {
		err = fmt.Errorf("%q does not match the answer:\n%s", want, got)
	}
	return output{out: got}, err
}

// askStream asks a server over TCP, HTTP or UDP; no answer is a refutation.
func askStream(where, proto, addr string, patience time.Duration) (string, error) {
	var conn net.Conn
	var refusal error
	network := strings.Replace(proto, "http", "tcp", 1)
	err := in(where, func() error {
		conn, refusal = net.DialTimeout(network, addr, patience)
		return nil
	})
	if err != nil {
		return "", err
	}
	if refusal != nil {
		return "", refutation{refusal}
	}
	defer conn.Close()
	got, err := exchange(conn, proto, addr, patience)
	if err != nil {
		return got, refutation{err}
	}
	return got, nil
}

// exchange asks the server at the other end of conn and returns its answer.
func exchange(conn net.Conn, proto, host string, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	switch proto {
	case "http":
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", host)
	case "udp":
		io.WriteString(conn, "hello\n")
		buf := make([]byte, 2048)
		n, err := conn.Read(buf)
		return string(buf[:n]), err
	}
	got, err := io.ReadAll(conn)
	if err == nil && len(got) == 0 {
		err = errors.New("closed without an answer")
	}
	return string(got), err
}

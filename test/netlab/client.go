package netlab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// DialPatience is the time that an answer may take on an idle machine.
const DialPatience = time.Second

// Ask asks a server of Serve and returns its answer. Silence for the patience of an idle
// machine, or a refused connection, is a Refutation.
func Ask(from Netns, proto, address string, patience time.Duration) (string, error) {
	if proto == "sctp" {
		return askSCTP(from, address, Stretched(patience))
	}
	conn, err := dial(from, strings.Replace(proto, "http", "tcp", 1), address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	got, err := exchange(conn, proto, address, Stretched(patience))
	if err != nil {
		err = Refutation{err}
	}
	return got, err
}

// Dial connects to an address.
func Dial(from Netns, network, address string) (net.Conn, error) {
	return dial(from, network, address, DialPatience)
}

func dial(from Netns, network, address string, patience time.Duration) (net.Conn, error) {
	var refusal error
	conn, err := In(from, func() (conn net.Conn, _ error) {
		conn, refusal = net.DialTimeout(network, address, Stretched(patience))
		return conn, nil
	})
	if err == nil && refusal != nil {
		err = Refutation{refusal}
	}
	return conn, err
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
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return "", err
		}
		buf := make([]byte, 2048)
		n, err := conn.Read(buf)
		return string(buf[:n]), err
	default:
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return "", err
		}
	}
	got, err := io.ReadAll(conn)
	if err == nil && len(got) == 0 {
		err = errors.New("closed without an answer")
	}
	return string(got), err
}

// Join opens a TCP connection to an address in another namespace, by dialling via, and
// returns both ends.
func Join(from, to Netns, address, via string) (client, server net.Conn, err error) {
	l, err := In(to, func() (net.Listener, error) { return net.Listen("tcp", address) })
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = Dial(from, "tcp", via); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		_ = client.Close()
	}
	return client, server, err
}

// Ping sends echo requests until one is answered, so many at most, and returns the output
// of ping. No answer is a Refutation.
func Ping(from Netns, address netip.Addr, requests int) (string, error) {
	args := []string{"-n", "-q", "-c1", "-W1", address.String()}
	if requests > 1 {
		args = []string{"-n", "-q", fmt.Sprint("-c", requests), "-i0.2", "-W0.5", address.String()}
	}
	out, err := from.Run("ping", args...)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		return out, err
	}
	if strings.Contains(out, " received") && !strings.Contains(out, " 0 received") {
		return out, nil
	}
	return out, Refutation{err}
}

package netlab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Serve starts a server that answers every client with the line "peer IP", where IP is the
// client's address as the server sees it, and a line with the text. proto is tcp or udp,
// also of one family as in tcp4, http or sctp. Over UDP the request comes after Asked.
// Over TCP the server then returns all that it reads. Over SCTP the answer is the cookie of
// an INIT ACK. The server holds its namespace alive until it is closed.
func Serve(at Netns, proto, address, text string) (io.Closer, error) {
	return In(at, func() (io.Closer, error) {
		switch family := strings.TrimRight(proto, "46"); family {
		case "udp":
			return serveDatagrams(proto, address, text)
		case "sctp":
			return serveSCTP(address, text)
		case "tcp":
			return serveStreams(proto, address, text)
		case "http":
			return serveHTTP(address, text)
		}
		return nil, fmt.Errorf("serve %s: unknown protocol", proto)
	})
}

// Asked goes before the request in the answer to a datagram.
const Asked = "asked "

func answer(peer net.Addr, text string) string {
	p, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return fmt.Sprintf("peer %v\n%s\n", peer, text)
	}
	return fmt.Sprintf("peer %s\n%s\n", p.Addr().Unmap(), text)
}

func serveStreams(network, address, text string) (io.Closer, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.WriteString(conn, answer(conn.RemoteAddr(), text)); err == nil {
					_, _ = io.Copy(conn, conn)
				}
			}()
		}
	}()
	return l, nil
}

func serveDatagrams(network, address, text string) (io.Closer, error) {
	conn, err := net.ListenPacket(network, address)
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
				_, _ = conn.WriteTo([]byte(answer(peer, text)+Asked+string(buf[:n])), peer)
			}
		}
	}()
	return conn, nil
}

func serveHTTP(address, text string) (io.Closer, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(r.RemoteAddr))
		_, _ = io.WriteString(w, answer(peer, text))
	})}
	go func() { _ = server.Serve(l) }()
	return server, nil
}

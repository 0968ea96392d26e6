package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// forwardPort is the file with the port that the forwarder listens on.
const forwardPort = ownFolder + "/forward.port"

// forward makes 127.0.0.1:port of our engine's network namespace, where it
// publishes the API server, reachable from the machine under the same port, and
// returns that port. Port 0 takes a free one. The machine's engine publishes on
// the machine already.
func (e *engine) forward(ctx context.Context, port int) (int, error) {
	if !e.own {
		return port, nil
	}
	if runs(forwardPID, forwardMark) {
		current, err := readPort()
		if err != nil || port == 0 || current == port {
			return current, err
		}
		if err := end(ctx, forwardPID, forwardMark); err != nil {
			return 0, err
		}
	}
	program, err := e.build(ctx, forwardMark, "./hack/kind")
	if err != nil {
		return 0, err
	}
	if _, err := output(asRoot(ctx, "rm", "-f", forwardPort)); err != nil {
		return 0, err
	}
	exited, err := start(asRoot(context.WithoutCancel(ctx), program, "forward", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	err = until(ctx, 10*time.Second, func() error {
		select {
		case <-exited:
			return fatalError{fmt.Errorf("the forwarder to the API server ended: is port %d of 127.0.0.1 taken?", port)}
		default:
			port, err = readPort()
			return err
		}
	})
	return port, err
}

func readPort() (int, error) {
	text, err := os.ReadFile(forwardPort)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

// Forward is the forwarder's process: it takes connections on the port, a free
// one if it is 0, until the context ends.
func Forward(ctx context.Context, port int) error {
	path, err := ownNetns()
	if err != nil {
		return err
	}
	netns, err := os.Open(path)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	_, chosen, _ := strings.Cut(listener.Addr().String(), ":")
	if err := writeWhole(forwardPID, strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	// The process that started this one waits for the port.
	if err := writeWhole(forwardPort, chosen); err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go serve(client.(*net.TCPConn), netns, "127.0.0.1:"+chosen)
	}
}

// serve leads one connection to the address inside the network namespace.
func serve(client *net.TCPConn, netns *os.File, address string) {
	if server, err := dialInside(netns, address); err == nil {
		done := make(chan struct{})
		go func() {
			pass(client, server)
			close(done)
		}()
		pass(server, client)
		<-done
		_ = server.Close()
	}
	_ = client.Close()
}

// writeWhole writes a file that is never seen half written.
func writeWhole(file, content string) error {
	part := filepath.Join(filepath.Dir(file), ".part."+filepath.Base(file))
	if err := os.WriteFile(part, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// pass copies until the source has no more, and says so to the destination.
func pass(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}

// dialInside connects from inside a network namespace. The thread it enters it
// with is never used again: the goroutine ends without unlocking it.
func dialInside(netns *os.File, address string) (*net.TCPConn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter the Docker engine's network namespace: %w", err)}
			return
		}
		conn, err := net.Dial("tcp4", address)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return r.conn.(*net.TCPConn), nil
}

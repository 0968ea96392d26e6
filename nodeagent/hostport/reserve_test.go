package hostport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// While a port is held, a later process gets EADDRINUSE; afterwards it gets the
// port.
func TestHold(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	p := New()
	defer p.Close()
	for i, c := range []struct {
		proto, host string
		refused     []string
		free        []string
	}{
		{"tcp", "0.0.0.0", []string{"tcp4 0.0.0.0", "tcp ::", "tcp4 " + four}, []string{"tcp6 ::", "tcp6 " + six, "udp4 0.0.0.0"}},
		{"tcp", "::", []string{"tcp6 ::", "tcp ::", "tcp6 " + six}, []string{"tcp4 0.0.0.0", "tcp4 " + four}},
		{"tcp", four, []string{"tcp4 0.0.0.0", "tcp ::", "tcp4 " + four}, []string{"tcp6 ::", "tcp4 127.0.0.1"}},
		{"tcp", six, []string{"tcp6 ::", "tcp ::", "tcp6 " + six}, []string{"tcp4 0.0.0.0", "tcp6 ::1"}},
		{"udp", "0.0.0.0", []string{"udp4 0.0.0.0", "udp ::", "udp4 " + four}, []string{"udp6 ::", "tcp4 0.0.0.0"}},
		{"udp", "::", []string{"udp6 ::", "udp ::", "udp6 " + six}, []string{"udp4 0.0.0.0"}},
		{"udp", four, []string{"udp4 0.0.0.0", "udp4 " + four}, []string{"udp6 ::", "udp4 127.0.0.1"}},
		{"udp", six, []string{"udp6 ::", "udp6 " + six}, []string{"udp4 0.0.0.0"}},
		{"tcp", "192.0.2.77", []string{"tcp4 0.0.0.0"}, []string{"tcp4 " + four}},
		{"udp", "2001:db8::77", []string{"udp6 ::"}, []string{"udp6 " + six}},
	} {
		pub := publish(c.proto, c.host, uint16(7000+i))
		check := func(list []string, want error) {
			t.Helper()
			for _, text := range list {
				network, host, _ := strings.Cut(text, " ")
				l, err := try(network, netip.AddrPortFrom(netip.MustParseAddr(host), pub.HostPort).String())
				if !errors.Is(err, want) {
					t.Errorf("%s: to listen on %s gives %v, want %v", pub.Key(), text, err, want)
				}
				if err == nil {
					l.Close()
				}
			}
		}
		for range 2 {
			if errs := p.Hold([]netstate.Publish{pub}); len(errs) > 0 || !p.Held(pub) {
				t.Fatal("hold:", errs)
			}
		}
		check(c.refused, syscall.EADDRINUSE)
		check(c.free, nil)
		if got := listeners(t, New(), pub); len(got) != 0 {
			t.Errorf("%s: what holds it is taken for a process: %v", pub.Key(), got)
		}
		p.Release([]netstate.Key{pub.Key(), pub.Key()})
		check(c.refused, nil)
	}
	if p.open != 0 || len(p.slots) != 0 {
		t.Errorf("%d sockets are open, %d slots left", p.open, len(p.slots))
	}
}

// SO_REUSEADDR and SO_REUSEPORT do not let a process in either.
func TestHoldAgainstReuse(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	p := New()
	defer p.Close()
	for i, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		for _, proto := range []string{"tcp", "udp"} {
			port := uint16(7000 + i)
			if errs := p.Hold([]netstate.Publish{publish(proto, "0.0.0.0", port)}); len(errs) > 0 {
				t.Fatal(errs)
			}
			config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
				c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1) })
				return err
			}}
			address := fmt.Sprintf("0.0.0.0:%d", port)
			var err error
			if proto == "tcp" {
				_, err = config.Listen(context.Background(), "tcp4", address)
			} else {
				_, err = config.ListenPacket(context.Background(), "udp4", address)
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%s with socket option %d: %v, want EADDRINUSE", proto, option, err)
			}
		}
	}
}

// TestOutgoingConnection: an outgoing connection that has the port as its source is
// no listener; the port is held when it has gone.
func TestOutgoingConnection(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	p := New()
	defer p.Close()
	for _, proto := range []string{"tcp", "udp"} {
		server := serve(t, proto+"4", "127.0.0.1:9999")
		defer server.Close()
		conn, err := net.Dial(proto+"4", "127.0.0.1:9999")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
		pub := publish(proto, "0.0.0.0", port)
		if got := listeners(t, p, publish(proto, "127.0.0.1", port)); len(got) != 0 {
			t.Errorf("an outgoing connection is taken for a listener: %v", got)
		}
		if err := p.Hold([]netstate.Publish{pub})[pub.Key()]; !errors.Is(err, ErrInUse) || p.Held(pub) {
			t.Errorf("hold while a connection has it: %v, want %v", err, ErrInUse)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		conn.Close()
		if errs := p.Hold([]netstate.Publish{pub}); len(errs) > 0 || !p.Held(pub) {
			t.Errorf("hold afterwards: %v", errs)
		}
	}
}

// A publish on one address beside one on all of them, in whatever order.
func TestSpecificBesideWildcard(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	p := New()
	defer p.Close()
	one, all := publish("tcp", four, 80), publish("tcp", "0.0.0.0", 80)
	hold := func(pub netstate.Publish) {
		t.Helper()
		if errs := p.Hold([]netstate.Publish{pub}); len(errs) > 0 || !p.Held(pub) {
			t.Fatal(errs)
		}
	}
	refused := func(address string, want bool) {
		t.Helper()
		l, err := try("tcp4", address)
		if (err != nil) != want {
			t.Errorf("to listen on %s gives %v", address, err)
		}
		if err == nil {
			l.Close()
		}
	}
	hold(one)
	refused("127.0.0.1:80", false)
	hold(all)
	refused("127.0.0.1:80", true)
	p.Release([]netstate.Key{all.Key()})
	refused("127.0.0.1:80", false)
	refused(four+":80", true)
	hold(all)
	p.Release([]netstate.Key{one.Key()})
	refused(four+":80", true)
	p.Release([]netstate.Key{all.Key()})
	refused(four+":80", false)
}

// A range is held up to its limit; what cannot be held is passed over.
func TestHoldRanges(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	p := New()
	defer p.Close()
	short, long := publish("udp", "0.0.0.0", 7000), publish("udp", "0.0.0.0", 7100)
	short.HostPortEnd, long.HostPortEnd = 7063, 7164
	if errs := p.Hold([]netstate.Publish{short, long, publish("tcp", "fe80::1", 80), publish("sctp", "0.0.0.0", 80)}); len(errs) > 0 {
		t.Fatal(errs)
	}
	if !p.Held(short) || p.Held(long) || p.open != 64 {
		t.Errorf("held %t and %t by %d sockets, want the range of 64 alone", p.Held(short), p.Held(long), p.open)
	}
	serve(t, "udp4", "0.0.0.0:7164")
	if _, err := try("udp4", "0.0.0.0:7063"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("the last port of a range:", err)
	}
	p.limit = p.open
	more := publish("tcp", "0.0.0.0", 81)
	if err := p.Hold([]netstate.Publish{more})[more.Key()]; !errors.Is(err, errDescriptors) {
		t.Error("hold more than may be:", err)
	}
}

// What comes to a held port is neither answered nor refused.
func TestHeldIsSilent(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	prepare(t)
	p := New()
	for _, host := range []string{four, six} {
		address := netip.AddrPortFrom(netip.MustParseAddr(host), 80).String()
		if err := ask("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s before: %v, want it refused", address, err)
		}
		if err := ask("udp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP %s before: %v, want it refused", address, err)
		}
		if errs := p.Hold([]netstate.Publish{publish("tcp", host, 80), publish("udp", host, 80)}); len(errs) > 0 {
			t.Fatal(errs)
		}
		for what, err := range map[string]error{"TCP": ask("tcp", address), "UDP": ask("udp", address)} {
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s %s: %v, want silence", what, address, err)
			}
		}
	}
	p.Close()
	if err := ask("tcp", four+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("afterwards: %v, want it refused", err)
	}
}

func ask(proto, address string) error {
	_, err := netlab.Ask(netlab.Node, proto, address, 300*time.Millisecond)
	return err
}

// 5,000 publishes are looked at and held well below a second.
func TestHoldManyPorts(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	var list []netstate.Publish
	for i := range 2500 {
		list = append(list, publish("tcp", "0.0.0.0", uint16(20000+i)), publish("udp", "::", uint16(20000+i)))
	}
	p := New()
	if p.limit < len(list) {
		t.Skipf("only %d sockets may hold ports here: the hard limit of open files is too low", p.limit)
	}
	start := spent(t)
	if found, err := p.Listeners(list); err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	looked := spent(t)
	if errs := p.Hold(list); len(errs) > 0 {
		t.Fatal(len(errs), "are not held")
	}
	held := spent(t)
	for range 10 {
		listeners(t, New(), list[0])
	}
	asked := spent(t)
	p.Close()
	t.Logf("look %v, hold %v, ask about one more %v, close %v", looked-start, held-looked, (asked-held)/10, spent(t)-asked)
	if took := held - start; took > time.Second {
		t.Errorf("to look at and hold %d ports took %v", len(list), took)
	}
	if took := (asked - held) / 10; took > 50*time.Millisecond {
		t.Errorf("to ask about one took %v", took)
	}
}

// spent is the time that processors gave this process: the time of day would count what
// other processes got in between.
func spent(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The limit of open files is raised already.
func TestDescriptors(t *testing.T) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur != l.Max {
		t.Errorf("the limit of open files is %d, and could be %d", l.Cur, l.Max)
	}
}

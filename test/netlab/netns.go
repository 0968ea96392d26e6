// Package netlab is the network of a test: namespaces and the veths between them, servers
// that answer with a name and their client's address, clients that return the answers,
// and raw frames. It also has the programs beside a test, and the waits for a state that
// comes by itself.
package netlab

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// A Netns is a network namespace: Node, a name under Folder, or the path of a file.
type Netns string

// Node is the namespace that the test runs in.
const Node Netns = "node"

// Folder has a file for each named namespace.
const Folder = "/run/netns"

// Path is the file of a namespace other than Node.
func (n Netns) Path() string {
	if strings.Contains(string(n), "/") {
		return string(n)
	}
	return filepath.Join(Folder, string(n))
}

// Do calls f on a thread in the namespace. Sockets and processes that f makes belong to
// the namespace for good.
func (n Netns) Do(f func() error) error {
	if n == Node {
		return f()
	}
	target, err := netns.GetFromPath(n.Path())
	if err != nil {
		return fmt.Errorf("open netns %s: %w", n, err)
	}
	defer target.Close()
	runtime.LockOSThread()
	node, err := netns.Get()
	if err != nil {
		return err
	}
	defer node.Close()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("enter netns %s: %w", n, err)
	}
	err = f()
	if back := netns.Set(node); back != nil {
		// The thread stays locked and dies with its goroutine.
		return fmt.Errorf("leave netns %s: %w", n, back)
	}
	runtime.UnlockOSThread()
	return err
}

// In is Do for a function that makes a value, such as a socket.
func In[T any](n Netns, f func() (T, error)) (made T, err error) {
	err = n.Do(func() (err error) {
		made, err = f()
		return err
	})
	return made, err
}

// Run runs a program in the namespace and returns its standard output.
func (n Netns) Run(program string, args ...string) (string, error) {
	var out, stderr strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := n.Do(cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

// Shell runs a shell command on the node, and returns its output.
func Shell(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// A Machine is a stand-in for a machine beside the node: a namespace whose interface eth0
// is connected to the node's interface Port.
type Machine struct {
	Netns Netns
	Port  string
	// Node and Own are the addresses of both ends, with prefix lengths.
	Node, Own []string
	// Default makes default routes by the addresses of Node.
	Default bool
}

// Make makes the machine. Its addresses are usable at once, and nothing more comes by
// itself.
func (m Machine) Make() error {
	steps := fmt.Sprintf("ip netns add %[1]s; ip link add %[2]s type veth peer name eth0 netns %[1]s; ip -n %[1]s link set lo up", m.Netns, m.Port)
	if _, err := Node.Run("sh", "-ec", steps); err != nil {
		return err
	}
	if err := errors.Join(Node.raise(m.Port, m.Node), m.Netns.raise("eth0", m.Own)); err != nil {
		return err
	}
	for _, address := range m.Node {
		via, _, _ := strings.Cut(address, "/")
		if !m.Default {
			break
		}
		if _, err := m.Netns.Run("ip", "route", "add", "default", "via", via); err != nil {
			return err
		}
	}
	return errors.Join(Node.settle(m.Port), m.Netns.settle("eth0"))
}

// raise gives an interface its addresses and sets it up.
func (n Netns) raise(link string, addresses []string) error {
	steps := "echo 0 >/proc/sys/net/ipv6/conf/" + link + "/accept_dad\n"
	for _, a := range addresses {
		steps += "ip address add " + a + " dev " + link
		if strings.Contains(a, ":") {
			steps += " nodad"
		}
		steps += "\n"
	}
	_, err := n.Run("sh", "-ec", steps+"ip link set "+link+" up")
	return err
}

// settle waits for the link-local address, the last thing that the kernel does by itself
// after a link goes up.
func (n Netns) settle(link string) error {
	return Retry(2*time.Second, func() error {
		out, err := n.Run("ip", "-6", "-o", "address", "show", "dev", link, "scope", "link", "-tentative")
		if err == nil && out == "" {
			err = Refuted("%s has no link-local address", link)
		}
		return err
	})
}

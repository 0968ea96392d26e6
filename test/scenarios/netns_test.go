package scenarios

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netns"
)

const (
	nodeName = "node"
	netnsDir = "/run/netns"
)

// in calls f on a thread that is in the named namespace. What f opens or starts
// belongs to that namespace, also after in has returned.
func in(name string, f func() error) error {
	if name == nodeName {
		return f()
	}
	target, err := netns.GetFromPath(filepath.Join(netnsDir, name))
	if err != nil {
		return fmt.Errorf("open netns %s: %w", name, err)
	}
	defer target.Close()
	runtime.LockOSThread()
	node, err := netns.Get()
	if err != nil {
		return err
	}
	defer node.Close()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("enter netns %s: %w", name, err)
	}
	err = f()
	if back := netns.Set(node); back != nil {
		// The thread stays locked and dies with its goroutine.
		return fmt.Errorf("leave netns %s: %w", name, back)
	}
	runtime.UnlockOSThread()
	return err
}

// runIn runs a program in a namespace and returns its standard output.
func runIn(name, program string, args ...string) (string, error) {
	var out strings.Builder
	var stderr strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := in(name, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

func lan(c call) (output, error) {
	if c.neg || len(c.args) != 4 {
		return output{}, errUsage
	}
	name, nodeIf := c.args[0], c.args[1]
	steps := [][]string{
		{nodeName, "ip", "netns", "add", name},
		{nodeName, "ip", "link", "add", nodeIf, "type", "veth", "peer", "name", "eth0", "netns", name},
		{name, "ip", "link", "set", "lo", "up"},
	}
	for _, s := range steps {
		if _, err := runIn(s[0], s[1], s[2:]...); err != nil {
			return output{}, err
		}
	}
	if err := lanEnd(nodeName, nodeIf, c.args[2]); err != nil {
		return output{}, err
	}
	if err := lanEnd(name, "eth0", c.args[3]); err != nil {
		return output{}, err
	}
	return output{}, errors.Join(settle(nodeName, nodeIf), settle(name, "eth0"))
}

func lanEnd(netnsName, link, cidrs string) error {
	noDAD := func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/accept_dad", []byte("0"), 0o644)
	}
	if err := in(netnsName, noDAD); err != nil {
		return err
	}
	for cidr := range strings.SplitSeq(strings.Trim(cidrs, "-"), ",") {
		if cidr == "" {
			continue
		}
		args := []string{"address", "add", cidr, "dev", link}
		if p, err := netip.ParsePrefix(cidr); err == nil && p.Addr().Is6() {
			args = append(args, "nodad")
		}
		if _, err := runIn(netnsName, "ip", args...); err != nil {
			return err
		}
	}
	_, err := runIn(netnsName, "ip", "link", "set", link, "up")
	return err
}

// settle waits for the link-local address, the last thing the kernel does by
// itself after a link goes up.
func settle(netnsName, link string) error {
	return retry(2*time.Second, func() error {
		out, err := runIn(netnsName, "ip", "-6", "-o", "address", "show", "dev", link, "scope", "link", "-tentative")
		if err == nil && out == "" {
			err = refuted("%s has no link-local address", link)
		}
		return err
	})
}

package scenarios

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mallory is on the LAN, eve on a network of her own.
	mallory = "mallory"
	eve     = "eve"
	evil    = "evil.yaml"
)

const evilManifest = `apiVersion: patchbay.dev/v1alpha1
kind: BridgeNetwork
metadata: {name: evil}
spec: {subnets: [10.66.0.0/24, "fd00:66::/64"]}
---
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: eve, namespace: evil}
spec: {target: {netns: {name: eve}}, network: evil, addresses: [10.66.0.66/24, "fd00:66::66/64"]}
`

// intrusionWindow is how long intruders are awaited, which need no more than a
// neighbour's MAC address on their way, and aftermath how long more of them after
// the first.
const (
	intrusionWindow = frameWindow
	aftermath       = 100 * time.Millisecond
)

func attackers(c call) (output, error) {
	if c.neg || len(c.args) != 0 {
		return output{}, errUsage
	}
	machine := c
	machine.args = []string{mallory, "evil0", "192.0.2.1/24,2001:db8:66::1/64", "192.0.2.66/24,2001:db8:66::66/64"}
	if out, err := lan(machine); err != nil {
		return out, err
	}
	for _, gateway := range []string{"192.0.2.1", "2001:db8:66::1"} {
		if _, err := runIn(mallory, "ip", "route", "add", "default", "via", gateway); err != nil {
			return output{}, err
		}
	}
	return output{}, os.WriteFile(filepath.Join(c.state.workDir, evil), []byte(evilManifest), 0o644)
}

func intrude(c call) (output, error) {
	if len(c.args) != 2 {
		return output{}, errUsage
	}
	target, err := netip.ParseAddrPort(c.args[1])
	if err != nil {
		return output{}, err
	}
	fd, err := openAny(c.args[0])
	if err != nil {
		return output{}, err
	}
	defer unix.Close(fd)
	var sent []intruder
	for _, who := range []string{mallory, eve} {
		if _, err := os.Stat(filepath.Join(netnsDir, who)); who == eve && os.IsNotExist(err) {
			continue
		}
		more, err := attack(who, target)
		if err != nil {
			return output{}, fmt.Errorf("%s attacks %s: %w", who, target, err)
		}
		sent = append(sent, more...)
	}
	arrived, err := awaitIntruders(fd, sent)
	out := output{out: strings.Join(arrived, "\n") + "\n"}
	if err == nil && len(arrived) == 0 {
		out.out, err = "", refuted("none of %d intruders arrived", len(sent))
	}
	if err == nil && c.neg {
		c.Logf("arrived: %s", strings.Join(arrived, ", "))
	}
	return out, err
}

// openAny hears what comes in by any interface of a namespace.
func openAny(name string) (fd int, err error) {
	err = in(name, func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(allProtocols))
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: (frameWindow / 10).Microseconds()})
	})
	if err != nil {
		return -1, fmt.Errorf("listen in netns %s: %w", name, err)
	}
	return fd, nil
}

// awaitIntruders returns which of them arrive, in the order in which they do.
func awaitIntruders(fd int, sent []intruder) (arrived []string, err error) {
	seen := map[int]bool{}
	buf := make([]byte, 2048)
	for end := time.Now().Add(intrusionWindow); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if link, ok := from.(*unix.SockaddrLinklayer); !ok || link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		for i, s := range sent {
			if !seen[i] && bytes.Contains(buf[:n], s.mark) {
				seen[i] = true
				arrived = append(arrived, s.what)
				end = time.Now().Add(aftermath)
			}
		}
	}
	return arrived, nil
}

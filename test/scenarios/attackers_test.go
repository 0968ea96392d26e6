package scenarios

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
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
	machine := netlab.Machine{Netns: mallory, Port: "evil0", Default: true,
		Node: []string{"192.0.2.1/24", "2001:db8:66::1/64"}, Own: []string{"192.0.2.66/24", "2001:db8:66::66/64"}}
	if err := machine.Make(); err != nil {
		return output{}, err
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
	tap, err := netlab.OpenTap(netlab.Netns(c.args[0]), "")
	if err != nil {
		return output{}, err
	}
	defer tap.Close()
	var sent []intruder
	for _, who := range []netlab.Netns{mallory, eve} {
		if _, err := os.Stat(who.Path()); who == eve && os.IsNotExist(err) {
			continue
		}
		more, err := attack(who, target)
		if err != nil {
			return output{}, fmt.Errorf("%s attacks %s: %w", who, target, err)
		}
		sent = append(sent, more...)
	}
	arrived, err := awaitIntruders(tap, sent)
	out := output{out: strings.Join(arrived, "\n") + "\n"}
	if err == nil && len(arrived) == 0 {
		out.out, err = "", netlab.Refuted("none of %d intruders arrived", len(sent))
	}
	if err == nil && c.neg {
		c.Logf("arrived: %s", strings.Join(arrived, ", "))
	}
	return out, err
}

// awaitIntruders returns which of them arrive, in the order in which they do.
func awaitIntruders(tap *netlab.Tap, sent []intruder) (arrived []string, err error) {
	seen, window := map[int]bool{}, intrusionWindow
	for {
		more, err := tap.Await(window, func(frame []byte) bool {
			before := len(arrived)
			for i, s := range sent {
				if !seen[i] && bytes.Contains(frame, s.mark) {
					seen[i] = true
					arrived = append(arrived, s.what)
				}
			}
			return len(arrived) > before
		})
		if !more {
			return arrived, err
		}
		window = aftermath
	}
}

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// pluginsFolder names, in the environment, where the CNI reference plugins are.
const pluginsFolder = "PATCHBAY_BENCH_PLUGINS"

// variant is a configuration of the plugins.
type variant struct{ name, metric, config string }

// variants are the plugins that come nearest to an attachment here (a gateway, egress
// NAT, a filter against spoofing) by either firewall, and the least that there is.
var variants = []variant{
	{"NAT and filter, iptables", "iptables/ours", `"ipMasq": true, "ipMasqBackend": "iptables", "macspoofchk": true`},
	{"NAT and filter, nftables", "nftables/ours", `"ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true`},
	{"neither NAT nor filter", "bare/ours", `"ipMasq": false, "macspoofchk": false`},
}

const pluginConfig = `{"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "br-cni", "isGateway": true, %s,
"ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.68.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}`

// buildPlugins builds the plugins of the version that hack/tools/cni-plugins names
// into a folder that goes with the benchmark.
func buildPlugins(b *testing.B) string {
	b.Helper()
	const module = "github.com/containernetworking/plugins/plugins/"
	dir := b.TempDir()
	cmd := exec.Command("go", "build", "-C", "../../hack/tools/cni-plugins", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", module+"main/bridge", module+"ipam/host-local", module+"meta/portmap")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build the CNI plugins: %v\n%s", err, out)
	}
	return dir
}

// plugins times ADD for every namespace, and removes what it made but for the
// namespaces.
func plugins(b *testing.B, v variant) (l latencies) {
	for i := range attachments {
		start := time.Now()
		if err := add(i, fmt.Sprintf(pluginConfig, v.config)); err != nil {
			b.Fatal(err)
		}
		l = append(l, time.Since(start))
	}
	netlab.Shell(b, "ip link delete br-cni; nft flush ruleset; rm -r /run/cni")
	return l
}

// add does what a container runtime does for one namespace.
func add(i int, config string) error {
	return plugin(context.Background(), "bridge", "ADD", i, namespace(i), config)
}

// plugin runs a plugin for the container of a number.
func plugin(ctx context.Context, program, command string, i int, netns, config string) error {
	dir := os.Getenv(pluginsFolder)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, program))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+name(i), "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH="+dir)
	cmd.Stdin = strings.NewReader(config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s of the plugin %s for %s: %w: %s", command, program, name(i), err, out.String())
	}
	return nil
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bound is how long one row may take to publish its ports: a slower row says how far
// it came.
const bound = time.Minute

// comparePortmap has the CNI reference plugin portmap publish the same ports: by an
// ADD for each, as a runtime does for containers with a port each, and all by one.
func comparePortmap(b *testing.B, ours map[int]published) {
	for _, backend := range []string{"iptables", "nftables"} {
		for _, n := range numbers {
			p := portmap(b, backend, n)
			p.row("portmap, "+backend, n)
			ratio(b, "portmap-"+backend, n, p, ours)
		}
		for _, n := range numbers[1:] {
			p := portmapAtOnce(b, backend, n)
			p.row("portmap, "+backend+", one ADD", n)
			ratio(b, "portmap-"+backend+"-one-ADD", n, p, ours)
		}
	}
}

// portmap publishes port by port.
func portmap(b *testing.B, backend string, n int) (p published) {
	defer bareServer(b)()
	start, done := time.Now(), 0
	for ; done < n && time.Since(start) < bound; done++ {
		must(b, portmapRun(b.Context(), "ADD", backend, done, done, done+1))
	}
	p.All = time.Since(start)
	if done < n {
		p.Note = fmt.Sprintf("stopped with %d ports", done)
	}
	p.moreAndFewer(b, backend, done)
	return p
}

// portmapAtOnce publishes all ports by one ADD.
func portmapAtOnce(b *testing.B, backend string, n int) (p published) {
	defer bareServer(b)()
	ctx, cancel := context.WithTimeout(b.Context(), bound)
	defer cancel()
	start := time.Now()
	err := portmapRun(ctx, "ADD", backend, 0, 0, n)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		p.Note = fmt.Sprintf("not done after %s", bound)
	case err != nil:
		p.Note = "refused: " + lastWords(err)
	default:
		p.All = time.Since(start)
		p.moreAndFewer(b, backend, n)
	}
	return p
}

// moreAndFewer measures what there is to measure with so many ports.
func (p *published) moreAndFewer(b *testing.B, backend string, n int) {
	start := time.Now()
	must(b, portmapRun(b.Context(), "ADD", backend, n, n, n+1))
	p.More = time.Since(start)
	start = time.Now()
	must(b, portmapRun(b.Context(), "DEL", backend, n, n, n+1))
	p.Fewer = time.Since(start)
	p.P50, p.PerSecond = connectLoop(b, n)
}

// portmapRun is a run of the plugin for a container with the ports of a range.
func portmapRun(ctx context.Context, command, backend string, container, from, to int) error {
	var ports []string
	for i := from; i < to; i++ {
		ports = append(ports, fmt.Sprintf(`{"hostPort": %d, "containerPort": %d, "protocol": "tcp"}`, firstPort+i, serverPort))
	}
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "bench", "type": "portmap", "backend": %q, "runtimeConfig": {"portMappings": [%s]},
"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/server"}], "ips": [{"address": "10.68.0.2/16", "interface": 0}]}}`,
		backend, strings.Join(ports, ", "))
	return plugin(ctx, "portmap", command, container, "/run/netns/server", config)
}

var pluginMessage = regexp.MustCompile(`"msg": ("(?:[^"\\]|\\.)*")`)

// lastWords is the cause at the end of an error, that of a plugin in what it prints.
func lastWords(err error) string {
	text := err.Error()
	if m := pluginMessage.FindStringSubmatch(text); m != nil {
		if message, err := strconv.Unquote(m[1]); err == nil {
			text = message
		}
	}
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndex(text, ": ")+1:])
}

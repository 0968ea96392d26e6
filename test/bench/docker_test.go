package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// dockerFigures hands, in the environment, Docker's figures to the sandbox, where the
// table is printed.
const dockerFigures = "PATCHBAY_BENCH_DOCKER"

// figures are by the number of ports; Absent is why there are none.
type figures struct {
	Absent string
	Rows   map[int]published
}

func compareDocker(b *testing.B, ours map[int]published) {
	var f figures
	must(b, json.Unmarshal([]byte(os.Getenv(dockerFigures)), &f))
	if f.Absent != "" {
		fmt.Printf("No rows of docker -p: %s.\n", f.Absent)
	}
	for _, n := range numbers {
		if p, ok := f.Rows[n]; ok {
			p.row("docker -p", n)
			ratio(b, "docker", n, p, ours)
		}
	}
}

// measureDocker publishes by containers of an engine that is there, from an image
// without anything but a server. It leaves nothing behind.
func measureDocker(b *testing.B) string {
	b.Helper()
	f := figures{Rows: map[int]published{}}
	netns, err := cluster.FindEngine(b.Context())
	must(b, err)
	if netns == "" {
		f.Absent = "no Docker engine answers"
	} else {
		d := newDocker(b, netns)
		for _, n := range numbers {
			f.Rows[n] = d.publish(n)
		}
	}
	text, err := json.Marshal(f)
	must(b, err)
	return string(text)
}

type docker struct {
	b            *testing.B
	netns, image string
	// host is the engine's own address on the bridge of its containers.
	host string
	// prefix begins the names of containers.
	prefix string
}

func newDocker(b *testing.B, netns string) *docker {
	d := &docker{b: b, netns: netns, prefix: fmt.Sprintf("patchbay-bench-%d-", os.Getpid())}
	d.image = d.prefix + "httpd:latest"
	dir := b.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/httpd", "../../hack/httpd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build httpd: %v\n%s", err, out)
	}
	netlab.Shell(b, fmt.Sprintf("tar -C %s -c httpd | docker import --change 'ENTRYPOINT [\"/httpd\"]' - %s", dir, d.image))
	b.Cleanup(func() { netlab.Shell(b, "docker rmi "+d.image) })
	out, err := exec.Command("docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").Output()
	must(b, err)
	d.host = strings.TrimSpace(string(out))
	return d
}

const (
	// perContainer are the most ports of one container: Docker answers when all are
	// published, and cannot be stopped on the way.
	perContainer = 500
	// spared is the memory that is left to the machine.
	spared = 4 << 30
)

// publish starts containers with so many ports in all, and another with one.
func (d *docker) publish(n int) (p published) {
	b, done := d.b, 0
	var many []string
	defer func() { d.remove(many...) }()
	start := time.Now()
	for ; done < n && time.Since(start) < bound && available(b) > spared; done = min(done+perContainer, n) {
		many = append(many, fmt.Sprintf("%s%d", d.prefix, done))
		if err := d.start(many[len(many)-1], done, min(done+perContainer, n)); err != nil {
			p.Note = lastWords(err)
			return p
		}
	}
	p.All = time.Since(start)
	switch {
	case done == 0:
		return published{Note: "no memory is to spare"}
	case done < n:
		p.Note = fmt.Sprintf("stopped with %d ports", done)
	case len(many) > 1:
		p.Note = fmt.Sprintf("of %d containers", len(many))
	}
	for _, name := range many {
		memory, err := proxies(d.address(name))
		must(b, err)
		p.Memory += memory
	}
	one := d.prefix + "one"
	defer d.remove(one)
	start = time.Now()
	must(b, d.start(one, done, done+1))
	p.More = time.Since(start)
	start = time.Now()
	d.remove(one)
	p.Fewer = time.Since(start)
	var err error
	if p.P50, p.PerSecond, err = connect(netlab.Netns(d.netns), fmt.Sprintf("%s:%d", d.host, firstPort+done-1)); err != nil {
		p.Note = "no connections: " + err.Error()
	}
	return p
}

// start runs a container with the ports of a range, and a server on the last.
func (d *docker) start(name string, from, to int) error {
	ctx, cancel := context.WithTimeout(d.b.Context(), bound)
	defer cancel()
	first, last := firstPort+from, firstPort+to-1
	ports := fmt.Sprintf("%[1]d-%[2]d:%[1]d-%[2]d", first, last)
	out, err := exec.CommandContext(ctx, "docker", "run", "--detach", "--name", name, "--publish", ports, d.image, fmt.Sprintf(":%d", last), "bench").CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("not done after %s", bound)
	}
	if err != nil {
		return fmt.Errorf("docker run: %w: %s", err, out)
	}
	return nil
}

// remove removes containers; one that is not there is nothing to Docker. It waits
// for a start that was given up.
func (d *docker) remove(names ...string) {
	for _, name := range names {
		if out, err := exec.Command("docker", "rm", "--force", name).CombinedOutput(); err != nil && !bytes.Contains(out, []byte("No such container")) {
			d.b.Errorf("docker rm: %v: %s", err, out)
		}
	}
}

func (d *docker) address(name string) string {
	out, err := exec.Command("docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).Output()
	must(d.b, err)
	return strings.TrimSpace(string(out))
}

// proxies is the memory of the processes that Docker runs for a container's ports;
// what several share is shared out. Only root may know it.
func proxies(container string) (bytes int, err error) {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, folder := range folders {
		line, err := os.ReadFile(folder + "/cmdline")
		args := strings.Split(string(line), "\x00")
		if err != nil || filepath.Base(args[0]) != "docker-proxy" || !slices.Contains(args, container) {
			continue
		}
		rollup, err := os.ReadFile(folder + "/smaps_rollup")
		if errors.Is(err, os.ErrPermission) {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
		n, err := kilobytes(rollup, "Pss")
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}

// available is the memory that the machine has left.
func available(b *testing.B) int {
	text, err := os.ReadFile("/proc/meminfo")
	must(b, err)
	n, err := kilobytes(text, "MemAvailable")
	must(b, err)
	return n
}

// kilobytes reads a line such as "Pss: 734 kB" and returns bytes.
func kilobytes(text []byte, name string) (int, error) {
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("find %s", name)
	}
	n, err := strconv.Atoi(string(m[1]))
	return n << 10, err
}

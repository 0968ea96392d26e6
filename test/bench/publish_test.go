package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// numbers are how many ports are published.
var numbers = []int{1, 500, 5000}

const (
	firstPort = 10000
	// connections are made one after the other to the port that was published
	// last.
	connections = 10000
	serverPort  = 80
)

// published is what one number of ports costs. Nothing is what could not be had.
type published struct {
	All, More, Fewer time.Duration
	// P50 is that of the time to connect.
	P50       time.Duration
	PerSecond float64
	// Memory is that of processes, in bytes.
	Memory int
	// Note says what else there is to say.
	Note string
}

// row prints one row of the table.
func (p published) row(name string, n int) {
	took := func(d time.Duration) string {
		if d == 0 {
			return "-"
		}
		return inMillis(d)
	}
	rate, memory := "-", "-"
	if p.PerSecond > 0 {
		rate = fmt.Sprintf("%.0f", p.PerSecond)
	}
	if p.Memory > 0 {
		memory = fmt.Sprintf("%d MiB", p.Memory>>20)
	}
	line := fmt.Sprintf("%-26s %5d %12s %12s %12s %12s %11s %9s  %s", name, n, took(p.All), took(p.More), took(p.Fewer), took(p.P50), rate, memory, p.Note)
	fmt.Println(strings.TrimRight(line, " "))
}

// BenchmarkPublishes publishes 1, 500 and 5,000 ports, one more and one fewer, and
// connects to the last from another host. Beside it, plain iptables rules do the
// same (the one DNAT rule that each port needs at least, all of them by
// iptables-restore, one more and one fewer by iptables), the CNI reference plugin
// portmap, and Docker's -p where an engine is there.
func BenchmarkPublishes(b *testing.B) {
	if !sandbox.Inside() {
		b.Setenv(pluginsFolder, buildPlugins(b))
		// An engine is not to be seen from the sandbox.
		b.Setenv(dockerFigures, measureDocker(b))
	}
	if !sandbox.Enter(b) {
		return
	}
	netlab.Shell(b, "ip link set lo up")
	for b.Loop() {
		fmt.Printf("\n%26s %5s %12s %12s %12s %12s %11s %9s\n", "", "ports", "all", "one more", "one fewer", "connect p50", "per second", "memory")
		ours := map[int]published{}
		for _, n := range numbers {
			ours[n] = publish(b, n)
			ours[n].row("patchbay", n)
		}
		for _, n := range numbers {
			iptables(b, n).row("iptables", n)
		}
		comparePortmap(b, ours)
		compareDocker(b, ours)
		first, last := ours[numbers[0]], ours[numbers[len(numbers)-1]]
		b.ReportMetric(last.PerSecond/first.PerSecond, "connections-5000/1")
		b.ReportMetric(float64(last.P50)/float64(first.P50), "connect-p50-5000/1")
	}
}

// compared is the number of ports at which other programs are compared with Patchbay.
const compared = 500

// ratio reports how much longer another takes for all ports, if it was measured.
func ratio(b *testing.B, metric string, n int, p published, ours map[int]published) {
	if n == compared && p.All > 0 && p.Note == "" {
		b.ReportMetric(float64(p.All)/float64(ours[n].All), fmt.Sprintf("%s-%d/ours", metric, n))
	}
}

func publish(b *testing.B, n int) (p published) {
	w := newStopwatch()
	k, firewall := drivers(b, netstate.SourceLocal, w)
	e := engine.New(engine.Options{Source: netstate.SourceLocal, Kernel: k, Firewall: firewall, Reporter: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	inputs := server()
	for i := range n {
		inputs = append(inputs, port(i))
	}
	stop := inBackground(b, e.Run)
	defer stop()
	start := time.Now()
	e.Update(inputs, nil)
	p.All = w.untilAll(b, inputs).held.Sub(start)
	p.Memory = resident(b)
	more := port(n)
	start = time.Now()
	e.Set(more)
	p.More = w.until(b, more.Owner()).held.Sub(start)
	start = time.Now()
	e.Remove(more)
	receive(b, w.removed)
	p.Fewer = time.Since(start)
	p.P50, p.PerSecond = connectLoop(b, n)
	for _, in := range inputs {
		e.Remove(in)
	}
	for range inputs {
		receive(b, w.removed)
	}
	return p
}

// untilAll returns the last word of so many owners.
func (w *stopwatch) untilAll(b *testing.B, inputs []engine.Input) (last mark) {
	missing := map[netstate.Owner]bool{}
	for _, in := range inputs {
		missing[in.Owner()] = true
	}
	for len(missing) > 0 {
		last = receive(b, w.ready)
		delete(missing, last.owner)
	}
	return last
}

// settle has the engine bring about what a change asks for.
func settle(b *testing.B, e *engine.Engine, change func()) time.Duration {
	b.Helper()
	start := time.Now()
	change()
	statuses, err := e.RunOnce(context.Background(), time.Minute, nil)
	took := time.Since(start)
	must(b, err)
	for _, s := range statuses {
		if s.Ready.Status != metav1.ConditionTrue {
			b.Fatalf("%s: %s", s.Owner, s.Ready.Message)
		}
	}
	return took
}

// server is a network with one attachment, where a server is to listen.
func server() []engine.Input {
	yes := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}
	return []engine.Input{
		{Accepted: yes, Network: &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "red"}, Spec: v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.68.0.0/16"}}}},
		{Accepted: yes, Attachment: &v1alpha1.NamespaceAttachment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "server"},
			Spec: v1alpha1.NamespaceAttachmentSpec{
				Target:  v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "server", Lifecycle: v1alpha1.Managed}},
				Network: "red", Addresses: []v1alpha1.Subnet{"10.68.0.2/16"},
			},
		}},
	}
}

func port(i int) engine.Input {
	yes := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}
	return engine.Input{Accepted: yes, Publish: &v1alpha1.PortPublish{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: fmt.Sprintf("p%05d", i)},
		Spec:       v1alpha1.PortPublishSpec{Attachment: "server", Ports: []v1alpha1.PublishedPort{{Protocol: v1alpha1.TCP, HostPort: int32(firstPort + i), TargetPort: serverPort}}},
	}}
}

// iptables publishes the same ports of the same namespace by bare rules.
func iptables(b *testing.B, n int) (p published) {
	defer bareServer(b)()
	start := time.Now()
	for i := 0; i < n; i += inBatch {
		must(b, restore(i, min(i+inBatch, n)))
	}
	p.All = time.Since(start)
	one := fmt.Sprintf("PREROUTING -p tcp -m addrtype --dst-type LOCAL -m tcp --dport %d -j DNAT --to-destination 10.68.0.2:%d", firstPort+n, serverPort)
	start = time.Now()
	netlab.Shell(b, "iptables -t nat -A "+one)
	p.More = time.Since(start)
	start = time.Now()
	netlab.Shell(b, "iptables -t nat -D "+one)
	p.Fewer = time.Since(start)
	p.P50, p.PerSecond = connectLoop(b, n)
	return p
}

// bareServer makes the network with its server and leaves the firewall empty; it
// returns what removes both.
func bareServer(b *testing.B) (remove func()) {
	e := newEngine(b)
	inputs := server()
	settle(b, e, func() { e.Update(inputs, nil) })
	netlab.Shell(b, "nft delete table inet patchbay; iptables -P FORWARD ACCEPT; echo 1 >/proc/sys/net/ipv4/ip_forward")
	return func() {
		netlab.Shell(b, "nft flush ruleset")
		settle(b, e, func() {
			for _, in := range inputs {
				e.Remove(in)
			}
		})
	}
}

// inBatch is what a user namespace takes at once.
const inBatch = 150

func restore(from, to int) error {
	var rules strings.Builder
	rules.WriteString("*nat\n")
	for i := from; i < to; i++ {
		fmt.Fprintf(&rules, "-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -m tcp --dport %d -j DNAT --to-destination 10.68.0.2:%d\n", firstPort+i, serverPort)
	}
	rules.WriteString("COMMIT\n")
	cmd := exec.Command("iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(rules.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	return nil
}

// connectLoop connects from another host to the last of so many ports. It returns
// the median time, and how many it made in a second.
func connectLoop(b *testing.B, n int) (time.Duration, float64) {
	must(b, netlab.Machine{Netns: "outside", Port: "wan0", Node: []string{"203.0.113.1/24"}, Own: []string{"203.0.113.2/24"}}.Make())
	defer netlab.Shell(b, "ip link del wan0; ip netns del outside")
	l, err := netlab.In("server", func() (net.Listener, error) { return net.Listen("tcp", fmt.Sprintf(":%d", serverPort)) })
	must(b, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	p50, perSecond, err := connect("outside", fmt.Sprintf("203.0.113.1:%d", firstPort+n-1))
	must(b, err)
	return p50, perSecond
}

func connect(from netlab.Netns, addr string) (p50 time.Duration, perSecond float64, err error) {
	var times latencies
	start := time.Now()
	err = from.Do(func() error {
		for range connections {
			begin := time.Now()
			c, err := net.DialTimeout("tcp", addr, 3*time.Second)
			if err != nil {
				return err
			}
			times = append(times, time.Since(begin))
			// Without TIME_WAIT, or ports would run out.
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return times.at(0.5), connections / time.Since(start).Seconds(), nil
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// resident is the memory that this process has in RAM, in bytes.
func resident(b *testing.B) int {
	data, err := os.ReadFile("/proc/self/statm")
	must(b, err)
	var size, pages int
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		b.Fatal(errors.Join(err, syscall.EINVAL))
	}
	return pages * os.Getpagesize()
}

package controlplane

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	// asHost makes this binary a host: the value is the socket that leads to
	// the API server.
	asHost = "PATCHBAY_TEST_HOST"
	// asCommand makes this binary the patchbay command.
	asCommand = "PATCHBAY_TEST_COMMAND"
)

// play is what this binary does instead of running tests.
func play() (code int, played bool) {
	switch {
	case os.Getenv(asCommand) != "":
		return cli.Run(cli.Options{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}), true
	case os.Getenv(asHost) != "":
		if err := beHost(os.Getenv(asHost)); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// beHost keeps a sandbox until standard input ends. Its own loopback leads to
// the API server, which is in another network namespace, by a socket in the file
// system, which has none.
func beHost(socket string) error {
	if err := sandbox.Prepare(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	forward(listener, "unix", socket)
	fmt.Println(listener.Addr().String())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// forwarder joins every connection that it accepts to another of an address.
type forwarder struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]bool
}

func forward(listener net.Listener, network, address string) *forwarder {
	f := &forwarder{Listener: listener, open: map[net.Conn]bool{}}
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial(network, address)
			if err != nil {
				_ = from.Close()
				continue
			}
			f.join(from, to)
		}
	}()
	return f
}

func (f *forwarder) join(from, to net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[from], f.open[to] = true, true
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, c := range pair {
				_ = c.Close()
				delete(f.open, c)
			}
		}()
	}
}

// cut ends it all.
func (f *forwarder) cut() {
	_ = f.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.open {
		_ = c.Close()
	}
}

// host is a node in namespaces of its own.
type host struct {
	t    *testing.T
	name string
	pid  int
	// socket is the host's way to the API server; address, its end on the
	// host's loopback.
	socket, address string
	way             *forwarder
	kubeconfig      string
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, name: name}
	dir, err := os.MkdirTemp("", "patchbay-host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h.socket = filepath.Join(dir, "api")
	h.connect()
	t.Cleanup(h.disconnect)
	cmd := sandbox.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asHost+"="+h.socket)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("start host %s: %v", name, err)
	}
	h.pid, h.address = cmd.Process.Pid, strings.TrimSpace(line)
	h.kubeconfig = filepath.Join(dir, "kubeconfig")
	h.login(config)
	return h
}

// connect gives the host its way to the API server.
func (h *host) connect() {
	h.t.Helper()
	api, err := url.Parse(config.Host)
	if err != nil {
		h.t.Fatal(err)
	}
	address := api.Host
	if address == "" {
		address = config.Host
	}
	listener, err := net.Listen("unix", h.socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.way = forward(listener, "tcp", address)
}

// disconnect takes it away.
func (h *host) disconnect() { h.way.cut() }

// login writes the agent's kubeconfig.
func (h *host) login(as *rest.Config) {
	h.t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + h.address, CertificateAuthorityData: as.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: as.CertData, ClientKeyData: as.KeyData, Token: as.BearerToken}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*file, h.kubeconfig); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-U", "--preserve-credentials", "-n", "-m", name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// try runs a command on the host.
func (h *host) try(name string, args ...string) (string, error) {
	out, err := h.command(name, args...).CombinedOutput()
	return string(out), err
}

func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.try(name, args...)
	if err != nil {
		h.t.Fatalf("on %s: %s %s: %v\n%s", h.name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// patchbay runs a command of the binary on the host.
func (h *host) patchbay(args ...string) (string, error) {
	cmd := h.command(os.Args[0], args...)
	cmd.Env = append(cmd.Env, asCommand+"=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// agent starts the host's agent.
func (h *host) agent(args ...string) *agent {
	h.t.Helper()
	args = append([]string{"agent", "--kubeconfig", h.kubeconfig, "--node-name", h.name, "--start-jitter", "0", "--log-level", "debug"}, args...)
	return start(h.t, "agent of "+h.name, h.command(os.Args[0], args...))
}

// agent is a running command of Patchbay: a node agent or a controller.
type agent struct {
	*netlab.Process
	t *testing.T
}

func start(t *testing.T, name string, cmd *exec.Cmd) *agent {
	t.Helper()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, asCommand+"=1")
	p, err := netlab.Start(cmd, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{p, t}
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("%s:\n%s", name, a.Log())
		}
	})
	return a
}

// stop ends the command as Kubernetes does, so that a controller gives its Lease back.
func (a *agent) stop() {
	a.t.Helper()
	if err := a.Stop(deadline); err != nil {
		a.t.Errorf("stop: %v", err)
	}
}

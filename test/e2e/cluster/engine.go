package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An engine of our own is dockerd in network and mount namespaces of its own,
// so that its bridges, its firewall rules, its sysctls and its mounts are not
// the machine's. These are its files; images and containers are in the cache.
const (
	ownFolder  = "/run/patchbay-kind"
	ownSocket  = "unix://" + ownFolder + "/docker.sock"
	ownCgroup  = "patchbay-kind"
	dockerdPID = ownFolder + "/dockerd.pid"
	uplinkPID  = ownFolder + "/slirp4netns.pid"
	forwardPID = ownFolder + "/forward.pid"
	// The processes' command lines, by which a stale pid is told from them.
	dockerdMark = "--pidfile=" + dockerdPID
	uplinkMark  = "slirp4netns"
	forwardMark = "patchbay-kind"
)

// engine is the Docker engine that the cluster runs on.
type engine struct {
	// own says that it was started here, and ends with the cluster.
	own      bool
	cache    string
	progress Progress
}

func newEngine(progress Progress) (*engine, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the cache folder: %w", err)
	}
	e := &engine{cache: filepath.Join(cache, "patchbay", "kind"), progress: progress}
	return e, os.MkdirAll(e.cache, 0o755)
}

// find looks for an engine that answers, one of our own before the machine's,
// and reports whether there is one.
func (e *engine) find(ctx context.Context) (bool, error) {
	e.own = runs(dockerdPID, dockerdMark)
	if e.own {
		return true, os.Setenv("DOCKER_HOST", ownSocket)
	}
	return e.do(ctx, "info") == nil, nil
}

// FindEngine looks for a Docker engine, one of our own before the machine's, and lets
// the Docker client of this process and its children speak to it. It returns the
// network namespace that containers' ports are published in; empty without an engine.
func FindEngine(ctx context.Context) (netns string, err error) {
	e, err := newEngine(func(string, ...any) {})
	if err != nil {
		return "", err
	}
	found, err := e.find(ctx)
	switch {
	case err != nil || !found:
		return "", err
	case e.own:
		return ownNetns()
	}
	return "/proc/self/ns/net", nil
}

// startEngine returns the engine at hand or starts one.
func startEngine(ctx context.Context, progress Progress) (*engine, error) {
	e, err := newEngine(progress)
	if err != nil {
		return nil, err
	}
	found, err := e.find(ctx)
	if err != nil {
		return nil, err
	}
	if !found {
		if err := e.startOwn(ctx); err != nil {
			return nil, fmt.Errorf("start a Docker engine: %w", err)
		}
	}
	return e, nil
}

// state returns the path of a file that goes with the cluster.
func (e *engine) state(file string) string { return filepath.Join(e.cache, "cluster", file) }

// dataRoot is where an engine of our own keeps images and containers.
func (e *engine) dataRoot() string { return filepath.Join(e.cache, "docker") }

// docker runs the Docker client and returns what it prints.
func (e *engine) docker(ctx context.Context, args ...string) (string, error) {
	return run(ctx, nil, "docker", args...)
}

// do runs the Docker client for what it does.
func (e *engine) do(ctx context.Context, args ...string) error {
	_, err := e.docker(ctx, args...)
	return err
}

// startOwn starts dockerd and waits until it answers.
func (e *engine) startOwn(ctx context.Context) error {
	e.progress("no Docker engine answers; starting one in namespaces of its own")
	if _, err := script(ctx, "hack/install-deps.sh", "engine"); err != nil {
		return err
	}
	e.own = true
	// What an engine that died has left behind.
	if err := e.stop(ctx); err != nil {
		return err
	}
	if err := os.Setenv("DOCKER_HOST", ownSocket); err != nil {
		return err
	}
	args, err := e.dockerdArgs(ctx)
	if err != nil {
		return err
	}
	// Names are resolved by slirp4netns; see connect.
	const enter = `mkdir -p ` + ownFolder + `
ip link set lo up
if [ -e /etc/resolv.conf ]; then
	echo nameserver 10.0.2.3 >` + ownFolder + `/resolv.conf
	mount --bind ` + ownFolder + `/resolv.conf /etc/resolv.conf
fi
exec dockerd "$@" >` + ownFolder + `/dockerd.log 2>&1`
	args = append([]string{"--net", "--mount", "--propagation", "private", "sh", "-ec", enter, "dockerd"}, args...)
	exited, err := start(asRoot(context.WithoutCancel(ctx), "unshare", args...))
	if err != nil {
		return err
	}
	return until(ctx, time.Minute, func() error {
		if e.do(ctx, "info") == nil {
			return nil
		}
		select {
		case <-exited:
			return fatalError{errors.New("dockerd ended; see " + ownFolder + "/dockerd.log")}
		default:
			return errors.New("dockerd does not answer; see " + ownFolder + "/dockerd.log")
		}
	})
}

// dockerdArgs are the settings by which our dockerd shares nothing with another.
func (e *engine) dockerdArgs(ctx context.Context) ([]string, error) {
	args := []string{
		dockerdMark,
		"--host=" + ownSocket,
		"--group=" + strconv.Itoa(os.Getgid()),
		"--exec-root=" + ownFolder + "/exec",
		"--data-root=" + e.dataRoot(),
		"--exec-opt=native.cgroupdriver=cgroupfs",
		"--cgroup-parent=/" + ownCgroup,
	}
	if capable, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); capable != 1 {
		// hack/kind/node-image.sh asks for this name.
		runtime, err := e.build(ctx, "runtime", "./hack/kind/runtime")
		if err != nil {
			return nil, err
		}
		args = append(args, "--add-runtime=relaxed="+runtime, "--default-runtime=relaxed")
	}
	return args, nil
}

// online runs a step that needs the world outside: an own engine has a way there just
// then. At all other times packets that the cluster's nodes send astray reach no host.
func (e *engine) online(ctx context.Context, do func() error) error {
	if !e.own {
		return do()
	}
	if err := e.connect(ctx); err != nil {
		return fmt.Errorf("connect the Docker engine: %w", err)
	}
	return errors.Join(do(), e.disconnect(context.WithoutCancel(ctx)))
}

// connect leads from the engine's network namespace to the machine's network, as
// rootless Docker does it.
func (e *engine) connect(ctx context.Context) error {
	netns, err := ownNetns()
	if err != nil {
		return err
	}
	const enter = `echo $$ >` + uplinkPID + `
exec slirp4netns --netns-type=path --configure --mtu=65520 --disable-host-loopback "$1" tap0 >` + ownFolder + `/slirp4netns.log 2>&1`
	if _, err := start(asRoot(context.WithoutCancel(ctx), "sh", "-ec", enter, "slirp4netns", netns)); err != nil {
		return err
	}
	return until(ctx, 10*time.Second, func() error {
		addresses, err := output(asRoot(ctx, "nsenter", "--net="+netns, "ip", "-4", "address", "show", "dev", "tap0"))
		if err == nil && !strings.Contains(addresses, "inet ") {
			err = errors.New("slirp4netns gives no address; see " + ownFolder + "/slirp4netns.log")
		}
		return err
	})
}

// disconnect ends that.
func (e *engine) disconnect(ctx context.Context) error { return end(ctx, uplinkPID, uplinkMark) }

// stop ends our own engine, if it runs, and nothing else, and leaves nothing of
// it but its cache.
func (e *engine) stop(ctx context.Context) error {
	err := errors.Join(
		end(ctx, forwardPID, forwardMark),
		e.disconnect(ctx),
		end(ctx, dockerdPID, dockerdMark),
	)
	if err != nil {
		return err
	}
	// A dockerd that was killed has left its containers running.
	if err := killAll(ctx, leftover); err != nil {
		return fmt.Errorf("end what a killed Docker engine left: %w", err)
	}
	if err := removeCgroups(ctx); err != nil {
		return err
	}
	_, err = output(asRoot(ctx, "rm", "-rf", "--one-file-system", ownFolder))
	return err
}

// removeCgroups removes the control groups of our engine's containers, which
// the kernel may hold for a moment after their last process.
func removeCgroups(ctx context.Context) error {
	return until(ctx, 20*time.Second, func() error {
		// With cgroup v1 there is one hierarchy for each controller.
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + ownCgroup)
		if exists("/sys/fs/cgroup/" + ownCgroup) {
			dirs = append(dirs, "/sys/fs/cgroup/"+ownCgroup)
		}
		if len(dirs) == 0 {
			return nil
		}
		_, err := output(asRoot(ctx, "find", append(dirs, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")...))
		return err
	})
}

// leftover tells processes of the own engine's containers and containerd from all
// other processes.
func leftover(cmdline, cgroups string) bool {
	program, _, _ := strings.Cut(cmdline, "\x00")
	containerd := strings.HasPrefix(filepath.Base(program), "containerd") && strings.Contains(cmdline, ownFolder+"/exec/")
	return containerd || strings.Contains(cgroups, ":/"+ownCgroup+"/")
}

// build compiles a program of the repository into the cache, from where it can
// outlive this process.
func (e *engine) build(ctx context.Context, name, pkg string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	file := filepath.Join(e.cache, "bin", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", file, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err = output(cmd)
	return file, err
}

// ownNetns returns the path of our engine's network namespace.
func ownNetns() (string, error) {
	pid, err := os.ReadFile(dockerdPID)
	if err != nil {
		return "", fmt.Errorf("find our dockerd: %w", err)
	}
	return "/proc/" + strings.TrimSpace(string(pid)) + "/ns/net", nil
}

package kernel

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// process starts a program in a network namespace of its own and returns its PID.
func process(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("unshare", "-n", "sh", "-c", "echo; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// TestNetnsLinkIsFollowed wires the namespace of a process by a symbolic link, as
// containers' namespaces are named, and no other.
func TestNetnsLinkIsFollowed(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	p := process(t)
	pid := strconv.Itoa(p.Process.Pid)
	sh(t, "mkdir -p /run/netns; ln -s /proc/%s/ns/net /run/netns/absolute; ln -s ../../proc/%s/ns/net /run/netns/relative", pid, pid)
	for _, name := range []string{"absolute", "relative"} {
		wantObserved(t, k, keysOf(netstate.Netns{Name: name}), netstate.Netns{Name: name})
	}
	host := netstate.Link{Name: "veth1", Type: netstate.Veth, Mark: netstate.Mark(netstate.SourceLocal, net1), MTU: 1500, Primary: true, Peer: netstate.End{Netns: "absolute", Name: "eth0"}}
	inside := netstate.Link{Netns: "absolute", Name: "eth0", Type: netstate.Veth, Mark: host.Mark, MTU: 1500, Peer: netstate.End{Name: "veth1"}}
	s := create(host)
	s[0].Peer = inside
	apply(t, k, s)
	sh(t, "nsenter -t %s -n ip link show eth0", pid)
	wantError(t, k, create(managed("absolute")), ErrForeign)
	wantError(t, k, remove(managed("absolute")), ErrForeign)
}

// TestNetnsLinkIsNotFollowed covers links that lead elsewhere: out of /proc, to another
// kind of namespace, to a process that has ended, to the host.
func TestNetnsLinkIsNotFollowed(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	p := process(t)
	pid := strconv.Itoa(p.Process.Pid)
	sh(t, "ip netns add theirs; mkfifo /run/fifo; ln -s /proc/%[1]s /run/process", pid)
	for name, target := range map[string]string{
		"fifo": "/run/fifo", "name": "theirs", "uts": "/proc/" + pid + "/ns/uts", "through": "/run/process/ns/net",
		"thread": "/proc/" + pid + "/task/" + pid + "/ns/net", "self": "/proc/self/ns/net", "loop": "loop", "dots": "/proc/../proc/" + pid + "/ns/net",
	} {
		if err := os.Symlink(target, "/run/netns/"+name); err != nil {
			t.Fatal(err)
		}
		wantObserved(t, k, keysOf(managed(name)), instead(name, "/run/netns/"+name+" is a symbolic link to "))
	}
	sh(t, "ln -s /proc/%d/ns/net /run/netns/host; ln -s /proc/%s/ns/net /run/netns/ended", os.Getpid(), pid)
	if _, errs := k.Observe(keysOf(managed("host"))); !errors.Is(errs[managed("host").Key()], ErrForeign) {
		t.Errorf("a link to the host's own namespace: %v", errs)
	}
	end(p)
	wantObserved(t, k, keysOf(managed("ended")), instead("ended", "/run/netns/ended is a symbolic link to /proc/"+pid+"/ns/net, and that process has ended"))
	if held := inventory(t, k); len(held) > 0 {
		t.Errorf("inventory: %v", held)
	}
}

// TestWatchSeesNetnsLink hears a link that is made after the watch, and what happens
// in its namespace.
func TestWatchSeesNetnsLink(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	p := process(t)
	sh(t, "mkdir -p /run/netns")
	events := watch(t, k)
	key := netstate.Netns{Name: "link"}.Key()
	sh(t, "ln -s /proc/%d/ns/net /run/netns/link", p.Process.Pid)
	events.want(t, "link made", func(e Event) bool { return e.Key == key && !e.Gone })
	events.clear()
	sh(t, "ln -sfn /proc/%d/ns/net /run/netns/link", process(t).Process.Pid)
	events.want(t, "link turned elsewhere", func(e Event) bool { return e.Key == key })
	events.clear()
	sh(t, "rm /run/netns/link")
	events.want(t, "link removed", isGone(managed("link")))
}

package kernel

import (
	"errors"
	"os"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"golang.org/x/sys/unix"
)

// inMountNamespace calls f on a thread with a mount namespace of its own, in which
// the mounts have the given propagation, while the process goes on as the host.
func inMountNamespace(t *testing.T, propagation uintptr, f func(k *Kernel)) {
	t.Helper()
	ended, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- netnsdir.OnFreshThread(func() error { defer close(ended); return apartFrom(propagation, f) })
	}()
	// A test that fails there ends its goroutine without a result.
	if <-ended; t.Failed() {
		t.FailNow()
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func apartFrom(propagation uintptr, f func(k *Kernel)) error {
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil && propagation != 0 {
		err = unix.Mount("", "/", "", unix.MS_REC|propagation, "")
	}
	if err != nil {
		return err
	}
	k, err := Open(Options{Source: netstate.SourceLocal, NodeName: "node", RunDir: "/run", Init: "/proc/self"})
	if err != nil {
		return err
	}
	f(k)
	return k.Close()
}

// onHost runs a command in the host's mount namespace.
func onHost(t *testing.T, command string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		sh(t, "%s", command)
	}()
	<-done
}

// TestMountsApart has the kernel tell whether the host sees the mounts made here, as
// systemd and container runtimes give mount namespaces.
func TestMountsApart(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	sh(t, "mount --make-shared /run; ip netns add before")
	external := func(name string) netstate.Netns { return netstate.Netns{Name: name} }
	inMountNamespace(t, 0, func(k *Kernel) {
		if err := k.MountsApart(); err != nil {
			t.Errorf("shared: %v", err)
		}
		wantObserved(t, k, keysOf(external("before")), external("before"))
	})
	inMountNamespace(t, unix.MS_SLAVE, func(k *Kernel) {
		wantApart(t, k)
		onHost(t, "ip netns add slave")
		wantObserved(t, k, keysOf(external("slave")), external("slave"))
	})
	inMountNamespace(t, unix.MS_PRIVATE, func(k *Kernel) {
		wantApart(t, k)
		wantObserved(t, k, keysOf(external("before")), external("before"))
		onHost(t, "ip netns add private")
		wantObserved(t, k, keysOf(external("private")), netstate.Netns{Name: "private", Instead: "the host has it", Apart: true})
		onHost(t, "ip netns del before; ip netns add before")
		wantObserved(t, k, keysOf(external("before")), netstate.Netns{Name: "before", Instead: "the host ", Apart: true})
	})
}

// wantApart makes a namespace in vain, and leaves nothing of it.
func wantApart(t *testing.T, k *Kernel) {
	t.Helper()
	if err := k.MountsApart(); !errors.Is(err, ErrMountsApart) {
		t.Errorf("told of mounts that do not reach the host: %v", err)
	}
	if err := errors.Join(k.Apply(create(managed("made")))...); !errors.Is(err, ErrMountsApart) {
		t.Errorf("made a namespace that the host does not see: %v", err)
	}
	if _, err := os.Lstat("/run/netns/made"); err == nil {
		t.Error("a file is left of a namespace that the host does not see")
	}
}

// TestMountsApartInContainer covers a container that sees no process of the host:
// /run/netns is the host's, and its propagation the runtime's default or rshared.
func TestMountsApartInContainer(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	sh(t, "mkdir /run/netns /run/host; mount -t tmpfs t /run/host; mkdir /run/host/netns")
	for _, c := range []struct {
		propagation string
		apart       bool
	}{{"private", true}, {"shared", false}} {
		sh(t, "mount --bind /run/host/netns /run/netns; mount --make-%s /run/netns", c.propagation)
		k, err := Open(Options{Source: netstate.SourceLocal, NodeName: "node", RunDir: "/run", Init: "/proc/none"})
		if err != nil {
			t.Fatal(err)
		}
		if apart := k.MountsApart() != nil; apart != c.apart {
			t.Errorf("%s: apart %v", c.propagation, apart)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		sh(t, "umount /run/netns")
	}
}

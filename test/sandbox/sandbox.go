// Package sandbox runs a test in a user, network and mount namespace of its
// own, with an empty /run, and so needs no root and leaves the machine as it
// was.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const marker = "PATCHBAY_SANDBOX"

// Enter runs the calling test once more in a sandbox. It returns true inside
// the sandbox, where the test goes on, and false outside, where the result has
// been taken over and the test must return:
//
//	if !sandbox.Enter(t) {
//		return
//	}
//
// It is for top-level tests; subtests run in their parent's sandbox. Tests in sandboxes
// of their own run beside each other.
func Enter(t testing.TB) bool {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		if err := Prepare(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.count=1"}
	switch t := t.(type) {
	case *testing.T:
		t.Parallel()
	case *testing.B:
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.benchtime=1x"}
	}
	cmd := Command(os.Args[0], args...)
	// An ordinary user's PATH lacks nft and ip on Debian.
	cmd.Env = append(os.Environ(), marker+"="+t.Name(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if _, ok := t.(*testing.B); ok {
		// The log of a benchmark is cut after ten lines.
		fmt.Printf("%s\n", out)
	} else {
		t.Logf("in the sandbox:\n%s", out)
	}
	if err != nil {
		t.Fatalf("run in the sandbox: %v", err)
	}
	if strings.Contains(string(out), "\n--- SKIP: "+t.Name()+" ") {
		t.Skip("skipped in the sandbox; see above")
	}
	return false
}

// Inside reports whether this process runs in a sandbox.
func Inside() bool { return os.Getenv(marker) != "" }

// Command prepares a command that starts in new user, network and mount
// namespaces, as root there, and ends with this process.
func Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
		Pdeathsig:                  syscall.SIGKILL,
	}
	return cmd
}

// Prepare gives a fresh sandbox an empty /run and a loopback that is up. Enter
// calls it; a process started with Command does so itself.
func Prepare() error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount an empty /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return errors.Join(errors.New("find lo"), err)
	}
	return netlink.LinkSetUp(lo)
}

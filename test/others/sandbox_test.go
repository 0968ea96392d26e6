package others

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	// marker names the test for the process in the namespaces; kit is the folder with
	// what it needs from outside, and packages that of the unpacked programs.
	marker   = "PATCHBAY_OTHERS"
	kit      = "PATCHBAY_OTHERS_KIT"
	packages = "PATCHBAY_OTHERS_PACKAGES"
	// controlGroup is the parent of the control groups of containers.
	controlGroup = "PATCHBAY_OTHERS_CGROUP"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "patchbay" {
		os.Exit(cli.Main())
	}
	code := m.Run()
	if os.Getenv(marker) == "" {
		_ = os.RemoveAll(kitFolder())
	}
	os.Exit(code)
}

// kitFolder is where this process assembles the kit.
func kitFolder() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("patchbay-others-%d", os.Getpid()))
}

// enter runs the calling test once more in namespaces of its own, as root. It returns
// true in there, and false outside, where the result has been taken over.
func enter(t *testing.T) bool {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		if err := errors.Join(sandbox.Prepare(), unix.Mount("proc", "/proc", "proc", 0, ""), overlay()); err != nil {
			t.Fatal(err)
		}
		return true
	}
	unpacked, err := assembled()
	if err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("patchbay-others-%d-%s", os.Getpid(), t.Name())
	// --kill-child ends with this process all that was started in there.
	program := []string{"unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "env",
		marker + "=" + t.Name(), kit + "=" + kitFolder(), packages + "=" + unpacked, controlGroup + "=" + group,
		"PATH=" + kitFolder() + ":/usr/sbin:/sbin:" + os.Getenv("PATH"),
		os.Args[0], "-test.run=^" + t.Name() + "$", "-test.v", "-test.count=1"}
	if os.Geteuid() != 0 {
		program = append([]string{"sudo", "-n"}, program...)
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	removeControlGroups(group)
	t.Logf("in the namespaces:\n%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")) {
		t.Fatalf("run in namespaces of its own: %v", err)
	}
	return false
}

// assembled makes the kit once: patchbay, a server for containers and other namespaces,
// and a runtime for containers where the machine lacks a capability that Docker's needs.
// It returns the folder of the unpacked programs.
var assembled = sync.OnceValues(func() (string, error) {
	unpacked, err := exec.Command("../../hack/others.sh").Output()
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		return "", fmt.Errorf("get Docker, firewalld and ufw: %w: %s", err, ee.Stderr)
	}
	if err == nil {
		err = os.MkdirAll(kitFolder(), 0o755)
	}
	for program, source := range map[string]string{"httpd": "../../hack/httpd", "runtime": "../../hack/kind/runtime"} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(kitFolder(), program), source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, failed := build.CombinedOutput(); failed != nil {
			err = errors.Join(err, fmt.Errorf("build %s: %w: %s", program, failed, out))
		}
	}
	self, failed := os.Executable()
	if failed == nil {
		failed = os.Symlink(self, filepath.Join(kitFolder(), "patchbay"))
	}
	return strings.TrimSpace(string(unpacked)), errors.Join(err, failed)
})

// overlay lays the unpacked programs over the machine's for this mount namespace;
// nothing is written to the machine.
func overlay() error {
	folder := os.Getenv(packages)
	upper, work := "/run/etc/upper", "/run/etc/work"
	return errors.Join(
		os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755),
		unix.Mount("overlay", "/usr", "overlay", 0, "lowerdir="+folder+"/usr:/usr"),
		unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir="+folder+"/etc:/etc,upperdir="+upper+",workdir="+work),
		unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""),
	)
}

// removeControlGroups removes what containers had on the machine.
func removeControlGroups(group string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + group)
	for _, root := range append(roots, "/sys/fs/cgroup/"+group) {
		var all []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for i := len(all) - 1; i >= 0; i-- {
			_ = os.Remove(all[i])
		}
	}
}

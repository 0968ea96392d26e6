// Package sysctl reads and writes sysctls, and records the previous value of a sysctl of
// the node so that it can be restored.
package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrReadOnly means that no sysctl can be written here.
var ErrReadOnly = errors.New("/proc/sys is read-only here: have it mounted read-write (Docker and Podman: --privileged or --security-opt systempaths=unconfined; systemd: ProtectKernelTunables=no; LXC: lxc.mount.auto = proc:rw)")

// Root is the folder of all sysctls.
const Root = "/proc/sys"

// fileOf is the file of a sysctl. Paths hold interface names, which come
// from users.
func fileOf(name string) (string, error) {
	if !filepath.IsLocal(name) || path.Clean(name) != name || name == "." {
		return "", fmt.Errorf("%q is not the path of a sysctl", name)
	}
	return path.Join(Root, name), nil
}

// Read reads a value in the calling thread's namespace, fields parted by
// single spaces. It fails with fs.ErrNotExist where there is none.
func Read(name string) (string, error) {
	file, err := fileOf(name)
	if err != nil {
		return "", err
	}
	b, err := readAll(file)
	return strings.Join(strings.Fields(string(b)), " "), err
}

// readAll reads a file by three system calls: os.ReadFile takes eight, and a restarted
// agent reads a dozen sysctls for each attachment.
func readAll(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	// A sysctl is read whole by one call.
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: file, Err: err}
	}
	return b[:n], nil
}

// Write writes a value in the calling thread's namespace.
func (all *Records) Write(name, value string) error {
	file, err := fileOf(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	all.Changed()
	return errors.Join(err, f.Close())
}

// Writable returns ErrReadOnly where /proc/sys is mounted read-only. An
// object that needs sysctls of its own is not created then.
func Writable() error {
	var fs unix.Statfs_t
	if unix.Statfs(path.Join(Root, "net"), &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return ErrReadOnly
	}
	return nil
}

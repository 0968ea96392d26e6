// Package regular reads regular files alone: reading a pipe or a device may never end.
package regular

import (
	"errors"
	"fmt"
	"os"
)

// ErrNotRegular is the error for a folder, a pipe, a socket or a device.
var ErrNotRegular = errors.New("is not a regular file")

// ReadFile returns the content of a regular file, following symbolic links. Its error
// for another kind of file is ErrNotRegular.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %w", path, ErrNotRegular)
	}
	return os.ReadFile(path)
}

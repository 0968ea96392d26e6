package limit

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExplain shows that the errors of limits say what to set, once, and that
// other errors are left alone.
func TestExplain(t *testing.T) {
	for _, test := range []struct {
		explain func(error) error
		err     error
		want    string
	}{
		{Explain, unix.EMFILE, "LimitNOFILE"},
		{Explain, unix.ENFILE, "fs.file-max"},
		{Explain, unix.ENOSPC, "/run"},
		{Explain, unix.EDQUOT, "raise it"},
		{Explain, unix.ENOBUFS, "free some"},
		{Explain, unix.ENOMEM, "free some"},
		{ExplainInotify, unix.EMFILE, "fs.inotify.max_user_instances"},
		{ExplainInotify, unix.ENOSPC, "fs.inotify.max_user_watches"},
		{ExplainInotify, unix.ENFILE, "fs.file-max"},
	} {
		err := test.explain(test.explain(fmt.Errorf("make a thing: %w", test.err)))
		if !errors.Is(err, ErrReached) || !errors.Is(err, test.err) || strings.Count(err.Error(), test.want) != 1 {
			t.Errorf("%v: got %v, want %s", test.err, err, test.want)
		}
	}
	for _, err := range []error{nil, unix.EPERM} {
		if got := Explain(err); !errors.Is(got, err) || errors.Is(got, ErrReached) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

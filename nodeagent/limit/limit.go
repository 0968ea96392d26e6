// Package limit names the limits that Linux sets to a process: which of them an
// error means, and the setting that raises it.
package limit

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrReached marks errors that mean a limit of this node or process.
var ErrReached = errors.New("a limit is reached")

// reached is an error that a higher limit would have spared.
type reached struct {
	err    error
	remedy string
}

func (r reached) Error() string   { return r.err.Error() + ": " + r.remedy }
func (r reached) Unwrap() []error { return []error{r.err, ErrReached} }

// Files returns how many files the process may have open. The Go runtime has
// raised that to the hard limit.
func Files() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<30))
}

// Explain adds the remedy to an error that means a limit; other errors stay as they are.
func Explain(err error) error {
	var remedy string
	switch {
	case err == nil || errors.Is(err, ErrReached):
		return err
	case errors.Is(err, unix.EMFILE):
		remedy = fmt.Sprintf("all of the %d files that the process may open are open: raise the limit (LimitNOFILE= of its unit, ulimit -Hn)", Files())
	case errors.Is(err, unix.ENFILE):
		remedy = "all files that the node may open are open: raise fs.file-max"
	case errors.Is(err, unix.ENOSPC):
		remedy = "no space is left, or a limit of user namespaces is reached: free space under /run, or raise user.max_net_namespaces"
	case errors.Is(err, unix.EDQUOT):
		remedy = "a quota is used up: raise it"
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		remedy = "the node, or the memory limit of the agent's unit or pod, has no memory left: free some, or raise the limit"
	default:
		return err
	}
	return reached{err, remedy}
}

// ExplainInotify does so for errors of inotify, which has limits of its own and
// reports them by numbers that stand for other limits elsewhere.
func ExplainInotify(err error) error {
	switch {
	case errors.Is(err, ErrReached):
		return err
	case errors.Is(err, unix.EMFILE) && descriptorsLeft():
		return reached{err, "all inotify instances of this user are used up: raise fs.inotify.max_user_instances (in a user namespace user.max_inotify_instances too), for example to 1024"}
	case errors.Is(err, unix.ENOSPC):
		return reached{err, "all inotify watches of this user are used up: raise fs.inotify.max_user_watches (in a user namespace user.max_inotify_watches too), for example to 524288"}
	}
	return Explain(err)
}

func descriptorsLeft() bool {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

package failure

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestErrorsHaveReasons shows that what comes back from the kernel for input that a
// person chose, or for a limit of the node, has a reason of its own and says what
// to do, and that what no person can mend stays a KernelError.
func TestErrorsHaveReasons(t *testing.T) {
	link := netstate.Link{Name: "br-red"}.Key()
	port := netstate.Port{Link: "eth1"}.Key()
	route := netstate.Key{Kind: netstate.KindRoute, Link: "eth0", Name: "10.0.0.0/8"}
	filter := netstate.Key{Kind: netstate.KindPortFilter, Link: "veth1"}
	for _, test := range []struct {
		key          netstate.Key
		errno        unix.Errno
		reason, says string
	}{
		{link, unix.EMFILE, v1alpha1.ReasonLimitReached, "LimitNOFILE"},
		{link, unix.ENFILE, v1alpha1.ReasonLimitReached, "fs.file-max"},
		{link, unix.ENOMEM, v1alpha1.ReasonLimitReached, "memory"},
		{link, unix.ENOBUFS, v1alpha1.ReasonLimitReached, "memory"},
		{link, unix.ENOSPC, v1alpha1.ReasonLimitReached, "/run"},
		{link, unix.EDQUOT, v1alpha1.ReasonLimitReached, "quota"},
		{link, unix.EPERM, v1alpha1.ReasonNotPermitted, "CAP_NET_ADMIN"},
		{link, unix.EACCES, v1alpha1.ReasonNotPermitted, "security module"},
		{link, unix.EROFS, v1alpha1.ReasonNotPermitted, "read-write"},
		{link, unix.EEXIST, v1alpha1.ReasonInterfaceConflict, "another"},
		{link, unix.EBUSY, v1alpha1.ReasonInterfaceConflict, "another"},
		{link, unix.EOPNOTSUPP, v1alpha1.ReasonUnsupported, "module"},
		{link, unix.EAFNOSUPPORT, v1alpha1.ReasonUnsupported, "module"},
		{link, unix.EPROTONOSUPPORT, v1alpha1.ReasonUnsupported, "module"},
		{link, unix.EINVAL, v1alpha1.ReasonUnsupported, "change the field"},
		{link, unix.ERANGE, v1alpha1.ReasonUnsupported, "change the field"},
		{link, unix.EADDRNOTAVAIL, v1alpha1.ReasonUnsupported, "change the field"},
		{link, unix.ENODEV, v1alpha1.ReasonPending, "no such device"},
		{port, unix.EBUSY, v1alpha1.ReasonUplinkInUse, "another"},
		{port, unix.ELOOP, v1alpha1.ReasonUplinkInUse, "another"},
		{port, unix.EINVAL, v1alpha1.ReasonUplinkInUse, "another"},
		{port, unix.EOPNOTSUPP, v1alpha1.ReasonUplinkInUse, "another"},
		{route, unix.ENETUNREACH, v1alpha1.ReasonUnsupported, "spec.routes"},
		{route, unix.EHOSTUNREACH, v1alpha1.ReasonUnsupported, "spec.routes"},
		{filter, unix.EINVAL, v1alpha1.ReasonKernelError, "invalid argument"},
		{link, unix.EIO, v1alpha1.ReasonKernelError, "input/output error"},
	} {
		reason, message := Explain(map[netstate.Key]error{test.key: fmt.Errorf("create it: %w", test.errno)}, "")
		if reason != test.reason || !strings.Contains(message, test.says) || !strings.Contains(message, test.errno.Error()) {
			t.Errorf("%s of %s: got %s: %s; want %s, with %q", test.errno, test.key, reason, message, test.reason, test.says)
		}
	}
}

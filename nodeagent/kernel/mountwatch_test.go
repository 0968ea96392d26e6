package kernel

import (
	"testing"

	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestListenMounts hears that a read-only mount becomes writable.
func TestListenMounts(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "mount -t tmpfs t /mnt; mount -o remount,ro /mnt")
	events := watch(t, k)
	mounts := func(e Event) bool { return e.Mounts }
	k.ListenMounts()
	events.want(t, "the begin of the watch", mounts)
	events.clear()
	sh(t, "mount -o remount,rw /mnt")
	events.want(t, "the remount", mounts)
}

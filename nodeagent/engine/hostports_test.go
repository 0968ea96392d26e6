package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// fakePorts are the node's processes by port, and the ports that are held.
type fakePorts struct {
	listen map[uint16]hostport.Listener
	inUse  map[uint16]bool
	held   map[netstate.Key]bool
	asked  int
	err    error
}

func (f *fakePorts) Listeners(list []netstate.Publish) (map[netstate.Key][]hostport.Listener, error) {
	f.asked++
	out := map[netstate.Key][]hostport.Listener{}
	for _, p := range list {
		if l, ok := f.listen[p.HostPort]; ok {
			out[p.Key()] = []hostport.Listener{l}
		}
	}
	return out, f.err
}

func (f *fakePorts) Hold(list []netstate.Publish) map[netstate.Key]error {
	errs := map[netstate.Key]error{}
	for _, p := range list {
		if _, taken := f.listen[p.HostPort]; taken || f.inUse[p.HostPort] {
			errs[p.Key()] = fmt.Errorf("hold: %w", hostport.ErrInUse)
			continue
		}
		f.held[p.Key()] = true
	}
	return errs
}

func (f *fakePorts) Held(p netstate.Publish) bool { return f.held[p.Key()] }

func (f *fakePorts) Release(keys []netstate.Key) {
	for _, k := range keys {
		delete(f.held, k)
	}
}

func portsWorld(t *testing.T) (*world, *fakePorts) {
	w := newWorld(t)
	f := &fakePorts{listen: map[uint16]hostport.Listener{}, inUse: map[uint16]bool{}, held: map[netstate.Key]bool{}}
	w.e.keeper.Sockets, w.e.keeper.Holds = f, true
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red", "10.0.0.11/24"))
	w.turns(20)
	w.e.Synced(true)
	return w, f
}

// look has the ports looked at that are waited for.
func (w *world) look() {
	w.later(hostport.WatchPause)
	w.turns(20)
}

func listener(name string, port uint16) hostport.Listener {
	return hostport.Listener{Proto: "tcp", Address: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Command: name, PID: 7}
}

func (w *world) expectReady(what string, p *v1alpha1.PortPublish, status, reason, message string) {
	w.t.Helper()
	c := w.r.status[own(p)].Ready
	if string(c.Status) != status || c.Reason != reason || !strings.Contains(c.Message, message) {
		w.t.Errorf("%s: Ready is %s %s %q, want %s %s ... %q", what, c.Status, c.Reason, c.Message, status, reason, message)
	}
}

// TestListenerFirst has a process on a port before it is published: the other
// port is published, and this one when the process has gone.
func TestListenerFirst(t *testing.T) {
	w, f := portsWorld(t)
	f.listen[80] = listener("nginx", 80)
	p := pp("web", "a", "", 80)
	p.Spec.Ports = append(p.Spec.Ports, v1alpha1.PublishedPort{Protocol: "TCP", HostPort: 81, TargetPort: 81})
	w.set(p)
	w.turns(20)
	w.expectReady("while it listens", p, "False", v1alpha1.ReasonHostPortConflict, "spec.ports: nginx (PID 7) listens on TCP 0.0.0.0:80: end it")
	if got := w.r.status[own(p)].Publish.Published; len(got) != 1 || got[0].HostPort != 81 || len(f.held) != 1 {
		t.Errorf("published %v, held %v, want 81 alone", got, f.held)
	}
	passes := w.k.passes
	w.look()
	if w.k.passes != passes {
		t.Error("a look that found the same made a pass")
	}
	f.listen[80] = listener("caddy", 80)
	w.look()
	w.expectReady("while another listens", p, "False", v1alpha1.ReasonHostPortConflict, "caddy (PID 7)")
	delete(f.listen, 80)
	w.look()
	w.expectReady("afterwards", p, "True", v1alpha1.ReasonProgrammed, "")
	if len(f.held) != 2 {
		t.Errorf("held %v, want both", f.held)
	}
	w.look()
	if asked := f.asked; w.e.alarms.Has(alarm{what: lookAtPorts}) {
		t.Error("it is still looked, though nothing is waited for", asked)
	}
}

// TestListenerLater has a process appear on a port that is published and not
// held: it is told, the port stays, and stays through a look at everything.
func TestListenerLater(t *testing.T) {
	w, f := portsWorld(t)
	p, no := pp("web", "a", "", 80), false
	p.Spec.ReservePort = &no
	w.set(p)
	w.turns(20)
	if len(f.held) != 0 {
		t.Fatal("held although not to be:", f.held)
	}
	w.look()
	passes := w.k.passes
	w.look()
	if w.k.passes != passes {
		t.Error("a look that found nobody made a pass")
	}
	f.listen[80] = listener("nginx", 80)
	for _, look := range []func(){w.look, w.e.everything} {
		look()
		w.turns(20)
		w.expectReady("at the next look", p, "True", v1alpha1.ReasonHostPortConflict, "published; but nginx (PID 7) listens on TCP 0.0.0.0:80 and gets nothing")
		w.expectTargets("at the next look", p, "10.0.0.11:80")
	}
	// The same after the firewall was emptied, and after a restart.
	clear(w.n.set)
	w.e.everything()
	w.turns(20)
	w.expectTargets("after a flush", p, "10.0.0.11:80")
	w.e = w.engine()
	w.e.keeper.Sockets = f
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red", "10.0.0.11/24"))
	w.set(p)
	w.turns(20)
	w.expectReady("after a restart", p, "True", v1alpha1.ReasonHostPortConflict, "nginx")
	w.expectTargets("after a restart", p, "10.0.0.11:80")
	delete(f.listen, 80)
	w.look()
	w.expectReady("afterwards", p, "True", v1alpha1.ReasonProgrammed, "")
}

// TestHoldWhatIsPublished follows the held ports: a port that an outgoing connection has
// is published all the same and held later; one that changes hands stays held; one that is
// not published or not to be held is let go.
func TestHoldWhatIsPublished(t *testing.T) {
	w, f := portsWorld(t)
	f.inUse[80] = true
	p := pp("web", "a", "", 80)
	w.set(p)
	w.turns(20)
	w.expectReady("with a connection from the port", p, "True", v1alpha1.ReasonProgrammed, "")
	w.expectTargets("with a connection from the port", p, "10.0.0.11:80")
	passes := w.k.passes
	delete(f.inUse, 80)
	w.look()
	if len(f.held) != 1 || w.k.passes != passes {
		t.Errorf("held %v after %d passes more, want it held without a pass", f.held, w.k.passes-passes)
	}
	second := pp("web2", "a", "", 80)
	w.set(second)
	w.turns(20)
	w.e.Remove(yes(InputOf(p)))
	w.turns(20)
	w.expectReady("with another owner", second, "True", v1alpha1.ReasonProgrammed, "")
	if len(f.held) != 1 {
		t.Errorf("held %v, want the port for its new owner", f.held)
	}
	no := false
	loose := second.DeepCopy()
	loose.Spec.ReservePort = &no
	w.set(loose)
	w.turns(20)
	if len(f.held) != 0 {
		t.Errorf("held %v, want nothing", f.held)
	}
	w.set(second)
	w.turns(20)
	w.e.Remove(yes(InputOf(second)))
	w.turns(20)
	if len(f.held) != 0 {
		t.Errorf("held %v after the publish", f.held)
	}
}

// TestApplyHoldsNothing plans and applies once.
func TestApplyHoldsNothing(t *testing.T) {
	w, f := portsWorld(t)
	w.e.keeper.Holds = false
	w.set(pp("web", "a", "", 80))
	if _, err := w.e.Plan(); err != nil {
		t.Fatal(err)
	}
	w.set(pp("web", "a", "", 80))
	w.turns(20)
	if len(f.held) != 0 || f.asked == 0 {
		t.Errorf("held %v, asked %d times", f.held, f.asked)
	}
}

// TestUnknownListeners publishes where the kernel cannot be asked, and says so once.
func TestUnknownListeners(t *testing.T) {
	w, f := portsWorld(t)
	f.err = errors.New("no sock_diag")
	said := 0
	w.e.keeper.Complain = func(error) { said++ }
	p := pp("web", "a", "", 80)
	w.set(p)
	w.turns(20)
	w.expectReady("without an answer", p, "True", v1alpha1.ReasonProgrammed, "")
	w.look()
	if said != 1 {
		t.Errorf("said %d times", said)
	}
}

package engine

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// lab is a world whose objects are recorded as an API server would, and whose
// agent can die at any moment.
type lab struct {
	*world
	r *rand.Rand
	// objects are the attachments there are, with the status that was written.
	objects map[string]*v1alpha1.NamespaceAttachment
	// unjudged are those whose verdict is out since the agent started.
	unjudged map[string]bool
	network  bool
	// pods are the namespaces of running pods by UID.
	pods map[string]Pod
	runs int
	// had is what each attachment has to have as long as it, or the pod of an
	// ephemeral one, exists.
	had map[string][]v1alpha1.Subnet
	log []string
}

// The subnets have 11 and 13 addresses to give.
const (
	labSubnet4 = "10.0.0.0/28"
	labSubnet6 = "fd00::/124"
)

func newLab(t *testing.T, seed uint64) *lab {
	l := &lab{world: newWorld(t), r: rand.New(rand.NewPCG(seed, 4)), objects: map[string]*v1alpha1.NamespaceAttachment{},
		unjudged: map[string]bool{}, pods: map[string]Pod{}, had: map[string][]v1alpha1.Subnet{}}
	l.e.SweepDelay = -1
	l.e.SetPods(nil)
	l.e.Synced(true)
	l.setNetwork()
	return l
}

func (l *lab) setNetwork() {
	n := bnet("red", labSubnet4, labSubnet6)
	n.Spec.IPAM = &v1alpha1.NetworkIPAM{Exclude: []v1alpha1.AddressRange{"10.0.0.8-10.0.0.9", "fd00::8/128"}}
	l.set(n)
	l.network = true
}

// act does one random thing.
func (l *lab) act() {
	name := fmt.Sprint("a", l.r.IntN(14))
	var what string
	switch n := l.r.IntN(22); {
	case n < 7:
		what = l.create(name)
	case n < 11:
		what = l.remove(name)
	case n < 13:
		what = l.startPod(name)
	case n < 15:
		what = l.stopPod(name)
	case n < 16:
		what = l.toggleNetwork()
	case n < 18:
		what = l.crash()
	case n < 19:
		what = l.judge()
	case n < 20:
		what = l.failForAWhile()
	default:
		what = l.deletePod(name)
	}
	l.log = append(l.log, what)
}

func (l *lab) create(name string) string {
	if l.objects[name] != nil {
		return "nothing"
	}
	a := nsa(name, "red")
	a.UID = "1"
	switch l.r.IntN(4) {
	case 0:
		a.Spec.Addresses = []v1alpha1.Subnet{v1alpha1.Subnet(fmt.Sprintf("10.0.0.%d/28", 2+l.r.IntN(13)))}
	case 1, 2:
		a.Spec.Target = v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: name}}
		a.Spec.IPAM = &v1alpha1.AttachmentIPAM{Lifecycle: v1alpha1.IPAMPersistent}
		if l.r.IntN(2) == 0 {
			a.Spec.IPAM.Lifecycle = v1alpha1.IPAMEphemeral
		}
		a.Status.PodUID = "pod-" + name
	}
	l.objects[name] = a
	l.set(a.DeepCopy())
	return "create " + name
}

func (l *lab) remove(name string) string {
	a := l.objects[name]
	if a == nil {
		return "nothing"
	}
	delete(l.objects, name)
	delete(l.unjudged, name)
	delete(l.had, name)
	l.e.Remove(yes(InputOf(a)))
	return "remove " + name
}

func (l *lab) startPod(name string) string {
	uid := "pod-" + name
	if _, ok := l.pods[uid]; ok {
		return "nothing"
	}
	l.runs++
	l.pods[uid] = Pod{UID: uid, Namespace: "lab", Name: name, Netns: fmt.Sprint("cni-", l.runs)}
	l.k.set.Add(netstate.Netns{Name: l.pods[uid].Netns})
	l.tellPods()
	return "start " + uid
}

// deletePod has the controller see that a pod is gone, or there again.
func (l *lab) deletePod(name string) string {
	a := l.objects[name]
	if a == nil || a.Spec.Target.Pod == nil || l.unjudged[name] {
		return "nothing"
	}
	a.Status.PodUID = map[string]string{"": "pod-" + name}[a.Status.PodUID]
	if ephemeral(a) {
		delete(l.had, name)
	}
	l.set(a.DeepCopy())
	return "pod of " + name + " is " + a.Status.PodUID
}

func (l *lab) tellPods() { l.e.SetPods(slices.Collect(maps.Values(l.pods))) }

func (l *lab) stopPod(name string) string {
	pod, ok := l.pods["pod-"+name]
	if !ok {
		return "nothing"
	}
	delete(l.pods, pod.UID)
	if a := l.objects[name]; a != nil && len(a.Status.Addresses) == 0 {
		// The only record was the mark in its namespace.
		delete(l.had, name)
	}
	for k, o := range l.k.set {
		if link, ok := o.(netstate.Link); ok && k.Netns == pod.Netns {
			l.k.step(plan.Step{Op: plan.Delete, Key: k, Old: link})
		}
	}
	delete(l.k.set, netstate.Netns{Name: pod.Netns}.Key())
	l.tellPods()
	return "stop " + pod.UID
}

func (l *lab) toggleNetwork() string {
	if !l.network {
		l.setNetwork()
		return "network there"
	}
	l.network = false
	l.e.Remove(yes(InputOf(bnet("red", labSubnet4, labSubnet6))))
	return "network gone"
}

// crash starts another agent, which knows the records and the kernel's marks, and
// of some attachments no verdict for now. Some records were not written.
func (l *lab) crash() string {
	l.k.held = l.k.inventory()
	l.e = l.engine()
	l.e.SweepDelay = -1
	if l.network {
		l.setNetwork()
	}
	for name, a := range l.objects {
		delete(l.unjudged, name)
		if l.built(name) && l.r.IntN(3) == 0 {
			a.Status = v1alpha1.NamespaceAttachmentStatus{PodUID: a.Status.PodUID}
		}
		if l.r.IntN(4) == 0 {
			l.unjudged[name] = true
			l.e.Remember(a.DeepCopy())
			continue
		}
		l.set(a.DeepCopy())
	}
	l.e.Synced(len(l.unjudged) == 0)
	l.tellPods()
	return "crash"
}

// built says whether the kernel bears an address of the attachment, as a record of
// last resort.
func (l *lab) built(name string) bool {
	return slices.ContainsFunc(l.k.inventory(), func(h netstate.Held) bool {
		return h.Owner.Name == name && h.Object.Key().Kind == netstate.KindAddress
	})
}

func (l *lab) judge() string {
	for name := range l.unjudged {
		l.set(l.objects[name].DeepCopy())
	}
	clear(l.unjudged)
	l.e.Synced(true)
	return "judged"
}

// failForAWhile lets steps fail at random until the world settles again.
func (l *lab) failForAWhile() string {
	l.k.appErr = func(plan.Step) error {
		if l.r.IntN(3) == 0 {
			return errors.New("ENOBUFS")
		}
		return nil
	}
	l.turns(3)
	l.k.appErr = nil
	return "failures"
}

// settle lets the agent work until it rests, and writes its statuses.
func (l *lab) settle() {
	for range 5 {
		if l.turns(50) == 50 {
			l.fail("the agent does not rest")
		}
		l.e.everything()
	}
	l.turns(50)
	for name, a := range l.objects {
		s, ok := l.rep().status[own(a)]
		if !ok || l.unjudged[name] {
			continue
		}
		uid := a.Status.PodUID
		a.Status = *s.Attachment.DeepCopy()
		a.Status.PodUID, a.Status.Conditions = uid, []metav1.Condition{s.Ready}
	}
}

func (l *lab) rep() *rep { return l.world.r }

// check holds the promises against the kernel's objects.
func (l *lab) check() {
	holders := map[v1alpha1.Subnet]string{}
	for name, a := range l.objects {
		for _, s := range a.Status.Addresses {
			if h := holders[s]; h != "" {
				l.fail("%s is had by %s and %s", s, h, name)
			}
			holders[s] = name
		}
		l.checkLasting(name, a)
	}
	inKernel := map[netip.Addr]netstate.Key{}
	for k := range l.k.set {
		if k.Kind != netstate.KindAddress || k.Netns == "" {
			continue
		}
		p := netip.MustParsePrefix(k.Name)
		if other, twice := inKernel[p.Addr()]; twice {
			l.fail("%s is twice in the kernel: %s and %s", p.Addr(), other, k)
		}
		inKernel[p.Addr()] = k
	}
}

// checkLasting: what an attachment had once it has for good, and an ephemeral one as
// long as its pod exists, running or not.
func (l *lab) checkLasting(name string, a *v1alpha1.NamespaceAttachment) {
	if ephemeral(a) && a.Status.PodUID == "" || len(a.Spec.Addresses) > 0 || l.unjudged[name] {
		return
	}
	had, has := l.had[name], a.Status.Addresses
	if slices.ContainsFunc(had, func(s v1alpha1.Subnet) bool { return !slices.Contains(has, s) }) {
		l.fail("%s had %v and has %v (%s)", name, had, has, a.Status.Conditions)
	}
	if len(has) > 0 {
		l.had[name] = has
	}
}

func (l *lab) fail(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf(format+"\nafter %q", append(args, l.log)...)
}

// checkNoneLost fills the network to the last address when all are gone.
func (l *lab) checkNoneLost() {
	for name := range maps.Clone(l.objects) {
		l.log = append(l.log, l.remove(name))
	}
	if !l.network {
		l.setNetwork()
	}
	l.e.Synced(true)
	l.settle()
	const free = 11
	for i := range free {
		a := nsa(fmt.Sprint("last", i), "red")
		l.objects[a.Name] = a
		l.set(a.DeepCopy())
	}
	l.settle()
	for name, a := range l.objects {
		if c := a.Status.Conditions; len(c) != 1 || c[0].Status != metav1.ConditionTrue {
			l.fail("of %d addresses some are lost: %s: %v", free, name, c)
		}
	}
	l.check()
}

// TestNoAddressTwiceAndNoneLost drives random sequences of creating, deleting,
// starting and stopping pods, networks that go and come, failures, and crashes
// after which records lag or verdicts are out.
func TestNoAddressTwiceAndNoneLost(t *testing.T) {
	for seed := range uint64(40) {
		l := newLab(t, seed)
		for range 60 {
			for range 1 + l.r.IntN(3) {
				l.act()
			}
			l.settle()
			l.check()
		}
		l.checkNoneLost()
	}
}

func ephemeral(a *v1alpha1.NamespaceAttachment) bool {
	return a.Spec.IPAM != nil && a.Spec.IPAM.Lifecycle == v1alpha1.IPAMEphemeral
}

package engine

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// manyPods sets attachments for so many pods, with or without lab/all as parent, and a
// publish of lab/all.
func (w *world) manyPods(n int, children bool) {
	w.e.Synced(true)
	w.set(bnet("red", "10.0.0.0/8"))
	w.set(pp("port", "all", "", 80))
	yes := true
	var running []Pod
	for i := range n {
		name := fmt.Sprint("p", i)
		a := podNSA(name, name, "red")
		if children {
			a.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NamespaceAttachment", Name: "all", Controller: &yes}}
		}
		w.set(a)
		w.k.set.Add(netstate.Netns{Name: name})
		running = append(running, Pod{UID: name, Namespace: "lab", Name: name, Netns: name})
	}
	w.e.SetPods(running)
}

// BenchmarkManyChildren compares the children of one parent, each of which may turn
// the parent's publish, with so many attachments without one.
func BenchmarkManyChildren(b *testing.B) {
	build := func(children bool) time.Duration {
		w := newWorld(b)
		w.manyPods(2000, children)
		begin := time.Now()
		w.turns(20)
		return time.Since(begin)
	}
	for b.Loop() {
		alone, children := build(false), build(true)
		b.ReportMetric(float64(children)/float64(alone), "children/alone")
	}
}

// BenchmarkManyGo compares the work for each of 3,000 attachments whose pods are
// gone with that for each of 300.
func BenchmarkManyGo(b *testing.B) {
	prepare := func(n int) time.Duration {
		w := newWorld(b)
		w.manyPods(n, false)
		w.turns(20)
		w.e.SetPods(nil)
		batch := w.e.take()
		w.e.leaving = map[netstate.Key]netstate.Owner{}
		w.e.resolver.Resolve(batch)
		clear(w.k.set) // it went with the pods
		begin := time.Now()
		w.e.prepare(batch)
		return time.Since(begin) / time.Duration(n)
	}
	for b.Loop() {
		few, many := prepare(300), prepare(3000)
		b.ReportMetric(float64(many)/float64(few), "each-of-3000/each-of-300")
	}
}

// BenchmarkOneOfMany compares the change of one attachment among 3,000 with that
// among 300.
func BenchmarkOneOfMany(b *testing.B) {
	change := func(n int) time.Duration {
		w := newWorld(b)
		w.manyPods(n, false)
		w.turns(20)
		const changes = 200
		begin := time.Now()
		for i := range changes {
			w.set(nsa(fmt.Sprint("other", i), "red"))
			w.turns(3)
		}
		return time.Since(begin) / changes
	}
	for b.Loop() {
		few, many := change(300), change(3000)
		b.ReportMetric(float64(many)/float64(few), "one-of-3000/one-of-300")
		b.ReportMetric(float64(many.Microseconds()), "us/one-of-3000")
	}
}

// BenchmarkManyWait compares what an address that is freed costs where 1,000 wait
// for one with where 20 do.
func BenchmarkManyWait(b *testing.B) {
	release := func(waiting int) time.Duration {
		w := newWorld(b)
		w.set(bnet("red", "10.0.0.0/23"))
		const addresses = 1<<9 - 3
		for i := range addresses + waiting {
			w.set(nsa(fmt.Sprintf("n%05d", i), "red"))
		}
		w.turns(20)
		w.e.Remove(yes(InputOf(nsa("n00000", "red"))))
		begin := time.Now()
		w.turns(20)
		took := time.Since(begin)
		if c := w.r.status[own(nsa(fmt.Sprintf("n%05d", addresses), ""))].Ready; c.Status != metav1.ConditionTrue {
			b.Errorf("the first that waits is not served: %s", c.Message)
		}
		return took
	}
	for b.Loop() {
		few, many := release(20), release(1000)
		b.ReportMetric(float64(many)/float64(few), "1000-wait/20-wait")
	}
}

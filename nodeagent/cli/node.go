package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

// node is this machine as the commands use it.
type node struct {
	name    string
	kernel  *kernel.Kernel
	nat     *firewall.Firewall
	store   *report.Store
	metrics *report.Metrics
	ports   *hostport.Ports
	// cluster is the reporter of a cluster's agent.
	cluster  *report.Cluster
	registry *prometheus.Registry
	engine   *engine.Engine
	log      *slog.Logger
	// damagedKeys are the files with keys that cannot be read.
	damagedKeys []*report.DamagedRecord
	// damaged are the files that were said to be.
	damaged map[string]bool
}

// open prepares an engine for the objects of a source, until a context ends. Nothing is
// touched yet.
func (f *flags) open(ctx context.Context, source netstate.Source, log *slog.Logger, tune func(*engine.Options)) (*node, error) {
	if err := privileged(); err != nil {
		return nil, err
	}
	n := &node{name: f.nodeName, store: f.store(), registry: prometheus.NewRegistry(), log: log, damaged: map[string]bool{}}
	if n.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find the node's name: %w", err)
		}
		n.name = host
	}
	var err error
	if n.kernel, err = kernel.Open(kernel.Options{Source: source, NodeName: n.name, RunDir: f.runDir, Step: f.step}); err != nil {
		return nil, err
	}
	if n.nat, err = f.firewall(firewall.Options{Source: source, Step: f.step, Context: ctx, Patience: f.patience}); err != nil {
		return nil, errors.Join(err, n.kernel.Close())
	}
	n.store.By(report.Node{Name: n.name, Backend: n.nat.Name()})
	n.ports = hostport.New()
	n.metrics = report.NewMetrics(n.registry)
	o := engine.Options{Source: source, Kernel: n.kernel, Firewall: n.nat, HostPorts: n.ports, Log: log, Retire: n.nat.Retire}
	if source == netstate.SourceLocal {
		o.Reporter = &report.Local{Store: n.store, Metrics: n.metrics, Log: log}
		o.Kept, n.damagedKeys = n.store.Kept()
	} else {
		n.cluster = report.NewCluster(n.metrics, log)
		o.Reporter = n.cluster
	}
	if tune != nil {
		tune(&o)
	}
	n.engine = engine.New(o)
	return n, nil
}

// firewall is the backend that the command line chooses, or where it leaves that open,
// the command.
func (f *flags) firewall(o firewall.Options) (*firewall.Firewall, error) {
	if f.backend == firewall.KindAuto && f.findNAT != nil {
		return f.findNAT(o)
	}
	return firewall.New(f.backend, o)
}

// privileged fails early, and in one line, where every netlink message would fail.
func privileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN
	if data[0].Effective&needed != needed {
		return errors.New("looking at or changing the node's networks needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN): use sudo")
	}
	return nil
}

func (n *node) close() {
	n.ports.Close()
	n.nat.Close()
	_ = n.kernel.Close()
}

func (f *flags) store() *report.Store {
	return report.NewStore(filepath.Join(f.runDir, "patchbay", "objects"))
}

// records returns the objects applied to this node before, in order. A record that cannot
// be read is left out, with a line in the log.
func (n *node) records() []v1alpha1.Object {
	list := n.sound()
	sortObjects(list)
	return list
}

// setAside renames damaged records so that they are not met again. The marks in the
// kernel say which objects are Patchbay's, with or without a record.
func (n *node) setAside() {
	n.sound()
	for file := range n.damaged {
		if err := report.SetAside(file); err != nil {
			n.log.Error("set a damaged record aside", "file", file, "err", err)
		}
	}
}

// sound returns the records that can be read, and says once of each other, a
// sysctl's too, that it is damaged.
func (n *node) sound() []v1alpha1.Object {
	records, damaged := n.store.Load()
	files := n.kernel.DamagedRecords()
	for _, d := range append(damaged, n.damagedKeys...) {
		files[d.File] = d.Err
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !n.damaged[file] {
			n.damaged[file] = true
			n.log.Error("a record is damaged and is not used; what the kernel has stays as it is", "file", file, "err", files[file])
		}
	}
	return records
}

// learn has the engine compile objects as they are in the kernel, and returns their keys.
func (n *node) learn(objects []v1alpha1.Object) (keys map[netstate.Owner][]netstate.Key, err error) {
	for _, set := range append(n.store.Former(objects), objects) {
		for _, in := range dir.Inputs(set, n.name) {
			in.Accepted.Status = metav1.ConditionTrue
			n.engine.Set(in)
		}
		if keys, err = n.engine.Learn(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// learnKeys learns the keys of the records where a record has none: it is of an earlier
// release, or its keys were damaged. A former version is of an earlier release that ran after
// the keys were written.
func (n *node) learnKeys() (map[netstate.Owner][]netstate.Key, error) {
	records := n.records()
	unknown := func(o v1alpha1.Object) bool { return n.engine.Kept[ownerOf(o)] == nil }
	if !slices.ContainsFunc(records, unknown) && n.store.Former(records) == nil {
		return nil, nil
	}
	return n.learn(records)
}

func ownerOf(o v1alpha1.Object) netstate.Owner { return engine.InputOf(o).Owner() }

func sortObjects[T v1alpha1.Object](list []T) {
	slices.SortFunc(list, func(a, b T) int { return ownerOf(a).Compare(ownerOf(b)) })
}

// merge puts documents in the place of the records they replace, with the
// records' status, and refuses changes of immutable fields.
func merge(records []v1alpha1.Object, docs []dir.Document, v *dir.Validator) ([]v1alpha1.Object, error) {
	merged := slices.Clone(records)
	at := map[netstate.Owner]int{}
	for i, o := range merged {
		at[ownerOf(o)] = i
	}
	var errs []error
	for _, d := range docs {
		i, recorded := at[ownerOf(d.Object)]
		if !recorded {
			at[ownerOf(d.Object)] = len(merged)
			merged = append(merged, d.Object)
			continue
		}
		if err := v.ValidateUpdate(d.Object, merged[i]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.File, err))
		}
		v1alpha1.CopyStatus(d.Object, merged[i])
		merged[i] = d.Object
	}
	return merged, errors.Join(errs...)
}

// filesFlag is the flag of the commands that read manifests.
func filesFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "filename", "f", nil, "manifest file, folder of manifests, or - for standard input; several make one set")
}

// filesByFlag refuses arguments of a command that reads manifests, and names the flag.
func filesByFlag(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no argument %q: name each file or folder by -f, as in -f %s", cmd.CommandPath(), args[0], args[0])
}

// read reads and validates the manifests of a command line.
func read(files []string, c stdin) ([]dir.Document, *dir.Validator, error) {
	if len(files) == 0 {
		return nil, nil, errors.New("-f FILE, -f DIR or -f - is needed")
	}
	v, err := dir.NewValidator()
	if err != nil {
		return nil, nil, err
	}
	docs, err := dir.Read(files, c.InOrStdin(), v)
	return docs, v, err
}

const defaultTimeout = 30 * time.Second

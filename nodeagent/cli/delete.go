package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
	"github.com/spf13/cobra"
)

func deleteCommand(f *flags) *cobra.Command {
	var files []string
	var all bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "delete -f FILE|DIR|- | --all",
		Short: "Remove from this node the objects of the manifests, or all of Patchbay's",
		Args:  filesByFlag,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all && len(files) > 0 {
				return errors.New("-f and --all exclude each other")
			}
			l, err := f.acquire(cmd.Context(), localLock, "delete ")
			if err != nil {
				return err
			}
			defer l.release()
			if all {
				return f.deleteAll(cmd, timeout)
			}
			return f.delete(cmd, files, timeout)
		},
	}
	filesFlag(cmd, &files)
	cmd.Flags().BoolVar(&all, "all", false, "remove everything that bears Patchbay's mark, a cluster agent's too")
	cmd.Flags().DurationVar(&timeout, "timeout", defaultTimeout, "how long to wait until everything is gone")
	return cmd
}

func (f *flags) delete(cmd *cobra.Command, files []string, timeout time.Duration) error {
	docs, _, err := read(files, cmd)
	if err != nil {
		return err
	}
	n, err := f.openQuiet(cmd, netstate.SourceLocal)
	if err != nil {
		return err
	}
	defer n.close()
	n.setAside()
	going, staying := n.split(docs)
	if err := inUse(docs, staying); err != nil {
		return err
	}
	// No keys are kept of a document without a record, and no record says whether the node
	// reaches an attachment, whose connections end then.
	if _, err := n.learn(slices.Concat(going, staying)); err != nil {
		return err
	}
	recorded := map[netstate.Owner]bool{}
	for _, o := range going {
		recorded[ownerOf(o)] = n.store.Get(ownerOf(o)) != nil
		n.engine.Remove(engine.InputOf(o))
	}
	for _, in := range dir.Inputs(staying, n.name) {
		in.Background = true
		n.engine.Set(in)
	}
	if _, err := n.engine.RunOnce(cmd.Context(), timeout, nil); err != nil {
		return err
	}
	if err := n.engine.Left(); err != nil {
		return err
	}
	for _, o := range going {
		outcome := "deleted"
		if !recorded[ownerOf(o)] && n.writes() == 0 {
			outcome = "was not there"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", ownerOf(o).Title(), outcome)
	}
	return nil
}

// openQuiet opens the node for a command that reports by itself, and sweeps without a
// brake.
func (f *flags) openQuiet(cmd *cobra.Command, s netstate.Source, tune ...func(*engine.Options)) (*node, error) {
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelWarn+1)
	if err != nil {
		return nil, err
	}
	return f.open(cmd.Context(), s, log, func(o *engine.Options) {
		o.SweepDelay = -1
		for _, t := range tune {
			t(o)
		}
	})
}

// split parts the node's objects into the ones that the documents name and the rest. A
// document without a record stands for itself: the kernel may know it.
func (n *node) split(docs []dir.Document) (going, staying []v1alpha1.Object) {
	named := map[netstate.Owner]bool{}
	for _, d := range docs {
		named[ownerOf(d.Object)] = true
		if n.store.Get(ownerOf(d.Object)) == nil {
			going = append(going, d.Object)
		}
	}
	for _, r := range n.records() {
		if named[ownerOf(r)] {
			going = append(going, r)
		} else {
			staying = append(staying, r)
		}
	}
	return going, staying
}

// inUse refuses to take a network from under attachments that stay.
func inUse(docs []dir.Document, staying []v1alpha1.Object) error {
	var errs []error
	for _, d := range docs {
		network := engine.InputOf(d.Object).Network
		if network == nil {
			continue
		}
		for _, o := range staying {
			if a := engine.InputOf(o).Attachment; a != nil && a.Spec.Network == network.Name {
				errs = append(errs, fmt.Errorf("%s: BridgeNetwork/%s: in use by NamespaceAttachment %s/%s: delete that first, or with it", d.File, network.Name, a.Namespace, a.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func (f *flags) deleteAll(cmd *cobra.Command, timeout time.Duration) error {
	l, err := f.acquire(cmd.Context(), clusterLock, "delete --all ")
	if err != nil {
		return err
	}
	defer l.release()
	for _, s := range []netstate.Source{netstate.SourceLocal, netstate.SourceCluster} {
		if err := f.sweepAll(cmd, s, timeout); err != nil {
			return err
		}
	}
	for _, folder := range []string{"objects", "objects.yaml", "sysctl"} {
		if err := os.RemoveAll(filepath.Join(f.runDir, "patchbay", folder)); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "records stay, since they cannot be removed: %v\n", err)
		}
	}
	fmt.Fprintln(cmd.OutOrStdout(), "Nothing of Patchbay is left on this node.")
	return nil
}

// unlisted is a firewall that is neither read nor changed.
type unlisted struct{ engine.Firewall }

func (unlisted) Observe([]netstate.Key) (netstate.Set, map[netstate.Key]error) {
	return netstate.Set{}.Add(netstate.Ruleset{}), nil
}
func (unlisted) Apply(steps []plan.Step) []error     { return make([]error, len(steps)) }
func (unlisted) Inventory() ([]netstate.Held, error) { return nil, nil }
func (unlisted) Blockers() []netstate.Blocker        { return nil }
func (unlisted) Watch(context.Context, func()) error { return nil }

// sweepAll removes all that bears a source's mark: no resource is set, so nothing has
// an owner. Filters go last, and need not be listed for it.
func (f *flags) sweepAll(cmd *cobra.Command, s netstate.Source, timeout time.Duration) error {
	n, err := f.openQuiet(cmd, s, func(o *engine.Options) { o.Firewall, o.Kept = unlisted{o.Firewall}, nil })
	if err != nil {
		return err
	}
	defer n.close()
	n.setAside()
	n.engine.Synced(true)
	if _, err := n.engine.RunOnce(cmd.Context(), timeout, nil); err != nil {
		return err
	}
	return errors.Join(n.engine.Left(), n.nat.CleanAll())
}

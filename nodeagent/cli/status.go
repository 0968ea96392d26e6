package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

func statusCommand(f *flags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show Patchbay's networks on this node, and whether they are as they should be",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.status(cmd, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, yaml or json")
	completes(cmd, "output", "table", "yaml", "json")
	return cmd
}

func (f *flags) status(cmd *cobra.Command, output string) error {
	if output != "table" && output != "yaml" && output != "json" {
		return fmt.Errorf("--output: %q is none of table, yaml, json", output)
	}
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelWarn)
	if err != nil {
		return err
	}
	look, by := *f, f.store().WrittenBy()
	look.findNAT = func(o firewall.Options) (*firewall.Firewall, error) {
		return firewall.InUse(by.Backend, o)
	}
	if f.nodeName == "" {
		look.nodeName = by.Name
	}
	last := engine.Command
	if f.agentRuns(localLock) {
		last = engine.Agent
	}
	planned, err := look.observe(cmd.Context(), netstate.SourceLocal, log)
	if err != nil {
		return err
	}
	clusters, err := look.observe(cmd.Context(), netstate.SourceCluster, log)
	if err != nil {
		return err
	}
	return show(cmd.OutOrStdout(), output, planned, clusters, last)
}

// observe compares a source's objects on this node with its records. The records of a
// cluster are in the cluster: each of its objects here is without a record.
func (f *flags) observe(ctx context.Context, s netstate.Source, log *slog.Logger) ([]engine.Planned, error) {
	n, err := f.open(ctx, s, log, func(o *engine.Options) { o.SweepDelay = -1 })
	if err != nil {
		return nil, err
	}
	defer n.close()
	if s == netstate.SourceLocal {
		for _, in := range dir.Inputs(n.records(), n.name) {
			n.engine.Set(in)
		}
	}
	n.engine.Synced(true)
	return n.engine.Look()
}

func show(w io.Writer, output string, planned, clusters []engine.Planned, last engine.Teller) error {
	var objects []v1alpha1.Object
	var unowned []plan.Group
	for _, p := range planned {
		if p.Status == nil {
			unowned = append(unowned, p.Group)
			continue
		}
		o, _ := report.WithStatus(p.Observed(last), p.Status.Input.Conditions())
		objects = append(objects, o)
	}
	sortObjects(objects)
	if output != "table" {
		return encode(w, output, objects, unowned, clusters)
	}
	return table(w, objects, unowned, clusters)
}

func table(w io.Writer, objects []v1alpha1.Object, unowned []plan.Group, clusters []engine.Planned) error {
	if len(objects)+len(unowned)+len(clusters) == 0 {
		fmt.Fprintln(w, "Nothing of Patchbay is on this node.")
		return nil
	}
	if err := report.Table(w, objects); err != nil {
		return err
	}
	for _, g := range unowned {
		fmt.Fprintf(w, "\n%s: on this node, but described by no resource:\n", g.Title)
		for _, l := range plan.Lines(g.Steps) {
			fmt.Fprintf(w, "  %s %s\n", l.Key.Kind, plan.Describe(l.Key))
		}
	}
	return clusterTable(w, clusters)
}

// clusterTable names the objects that a cluster has built here.
func clusterTable(w io.Writer, clusters []engine.Planned) error {
	if len(clusters) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Built for a cluster, which knows how it stands (kubectl get bnet,nbr,nsa,pp -A):")
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range clusters {
		fmt.Fprintf(tab, "  %s\t%d objects\n", clusterTitle(p), len(plan.Lines(p.Steps)))
	}
	return tab.Flush()
}

func clusterTitle(p engine.Planned) string {
	if p.Owner == (netstate.Owner{}) {
		return "namespaces and firewall"
	}
	return p.Title
}

// built are objects without a status here: no resource describes them, or a resource in a
// cluster does.
type built struct {
	Owner   string   `json:"owner"`
	Objects []string `json:"objects"`
}

func builtBy(owner string, steps []plan.Step) built {
	b := built{Owner: owner}
	for _, l := range plan.Lines(steps) {
		b.Objects = append(b.Objects, l.Key.Kind.String()+" "+plan.Describe(l.Key))
	}
	return b
}

// encode says all that the table says: undescribed and cluster are beside the items of
// the list.
func encode(w io.Writer, output string, objects []v1alpha1.Object, unowned []plan.Group, clusters []engine.Planned) error {
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}
	var undescribed, cluster []built
	for _, g := range unowned {
		undescribed = append(undescribed, builtBy(g.Title, g.Steps))
	}
	for _, p := range clusters {
		cluster = append(cluster, builtBy(clusterTitle(p), p.Steps))
	}
	if len(undescribed) > 0 {
		list["undescribed"] = undescribed
	}
	if len(cluster) > 0 {
		list["cluster"] = cluster
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err == nil && output == "yaml" {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

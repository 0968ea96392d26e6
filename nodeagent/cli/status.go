package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

func statusCommand(f *flags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what of Patchbay is on this node and whether it is as it should be",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.status(cmd, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, yaml or json")
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
	n, err := f.open(netstate.SourceLocal, log, func(o *engine.Options) { o.SweepDelay = -1 })
	if err != nil {
		return err
	}
	defer n.close()
	records, err := n.records()
	if err != nil {
		return err
	}
	for _, in := range dir.Inputs(records, n.name) {
		n.engine.Set(in)
	}
	n.engine.Synced(true)
	planned, err := n.engine.Plan(cmd.Context())
	if err != nil {
		return err
	}
	return show(cmd.OutOrStdout(), output, planned)
}

func show(w io.Writer, output string, planned []engine.Planned) error {
	var objects []metav1.Object
	var unowned []plan.Group
	for _, p := range planned {
		if p.Status == nil {
			unowned = append(unowned, p.Group)
			continue
		}
		o, _ := report.WithStatus(p.Observed(), p.Status.Input.Conditions())
		objects = append(objects, o)
	}
	sortObjects(objects)
	if output != "table" {
		return encode(w, output, objects)
	}
	return table(w, objects, unowned)
}

func table(w io.Writer, objects []metav1.Object, unowned []plan.Group) error {
	if len(objects)+len(unowned) == 0 {
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
	return nil
}

func encode(w io.Writer, output string, objects []metav1.Object) error {
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}
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

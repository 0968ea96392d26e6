package cli

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

func planCommand(f *flags) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "plan -f FILE|DIR|-",
		Short: "Show what apply would change, as a diff; exit code 2 for a change, 0 for none",
		Args:  filesByFlag,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.plan(cmd, files)
		},
	}
	filesFlag(cmd, &files)
	return cmd
}

func (f *flags) plan(cmd *cobra.Command, files []string) error {
	docs, v, err := read(files, cmd)
	if err != nil {
		return err
	}
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelWarn)
	if err != nil {
		return err
	}
	n, err := f.open(cmd.Context(), netstate.SourceLocal, log, nil)
	if err != nil {
		return err
	}
	defer n.close()
	inputs, err := n.wanted(docs, v)
	if err != nil {
		return err
	}
	if _, err := n.learnKeys(); err != nil {
		return err
	}
	for _, in := range inputs {
		n.engine.Set(in)
	}
	planned, err := n.engine.Plan()
	if err != nil {
		return err
	}
	if err := plan.Text(cmd.OutOrStdout(), groups(planned)); err != nil {
		return err
	}
	for _, p := range planned {
		if len(p.Steps) > 0 || p.Mend {
			return exitCode(2)
		}
	}
	return nil
}

func groups(planned []engine.Planned) []plan.Group {
	var out []plan.Group
	for _, p := range planned {
		if len(p.Steps) > 0 || p.Note != "" {
			out = append(out, p.Group)
		}
	}
	return out
}

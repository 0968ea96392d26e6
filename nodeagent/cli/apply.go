package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

type stdin interface{ InOrStdin() io.Reader }

func applyCommand(f *flags) *cobra.Command {
	var files []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Build the networks of the manifests on this node, once, and show their status",
		Args:  filesByFlag,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.apply(cmd, files, timeout)
		},
	}
	filesFlag(cmd, &files)
	cmd.Flags().DurationVar(&timeout, "timeout", defaultTimeout, "how long to wait until everything is Ready")
	return cmd
}

func (f *flags) apply(cmd *cobra.Command, files []string, timeout time.Duration) error {
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelWarn+1)
	if err != nil {
		return err
	}
	docs, v, err := read(files, cmd)
	if err != nil {
		return err
	}
	l, err := f.acquire(cmd.Context(), localLock, "apply ")
	if err != nil {
		return err
	}
	defer l.release()
	n, err := f.open(cmd.Context(), netstate.SourceLocal, log, nil)
	if err != nil {
		return err
	}
	defer n.close()
	n.setAside()
	inputs, err := n.wanted(docs, v)
	if err != nil {
		return err
	}
	learned, err := n.learnKeys()
	if err != nil {
		return err
	}
	for _, in := range inputs {
		if !in.Background {
			if err := n.record(in, learned); err != nil {
				return fmt.Errorf("write record of %s: %w", in.Owner(), err)
			}
		}
		n.engine.Set(in)
	}
	writes := n.writes()
	statuses, err := n.engine.RunOnce(cmd.Context(), timeout, progress(cmd.ErrOrStderr()))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(statuses, func(s engine.Status) bool { return s.Ready.Status != metav1.ConditionTrue }) {
		err = n.nat.Retire()
	}
	return errors.Join(n.result(cmd, docs, statuses, n.writes()-writes), err)
}

// record writes the record of a resource that is about to be built, and first the keys that
// were learned from the record in its place.
func (n *node) record(in engine.Input, learned map[netstate.Owner][]netstate.Key) error {
	if keys := learned[in.Owner()]; keys != nil {
		if err := n.store.Keep(in.Owner(), keys); err != nil {
			return err
		}
	}
	return n.store.Save(in.Object())
}

// progress prints what the applied objects wait for, each time it changes.
func progress(w io.Writer) func([]engine.Status) {
	said := ""
	return func(statuses []engine.Status) {
		text := ""
		for _, s := range statuses {
			if !s.Input.Background && s.Ready.Status != metav1.ConditionTrue {
				text += fmt.Sprintf("waiting for %s: %s: %s\n", s.Owner.Title(), s.Ready.Reason, s.Ready.Message)
			}
		}
		if text != said {
			fmt.Fprint(w, text)
			said = text
		}
	}
}

// wanted is the records with the documents put in, each accepted or not. What
// was not named stays in the background.
func (n *node) wanted(docs []dir.Document, v *dir.Validator) ([]engine.Input, error) {
	merged, err := merge(n.records(), docs, v)
	if err != nil {
		return nil, err
	}
	named := map[netstate.Owner]bool{}
	for _, d := range docs {
		named[ownerOf(d.Object)] = true
	}
	inputs := dir.Inputs(merged, n.name)
	for i := range inputs {
		inputs[i].Background = !named[inputs[i].Owner()]
	}
	return inputs, nil
}

// writes counts the messages that changed the kernel.
func (n *node) writes() uint64 { return n.kernel.Writes() + n.nat.Transactions() }

// result shows the status of the applied objects; an object that is not Ready is an error.
func (n *node) result(cmd *cobra.Command, docs []dir.Document, statuses []engine.Status, writes uint64) error {
	files := map[netstate.Owner]string{}
	for _, d := range docs {
		files[ownerOf(d.Object)] = d.File
	}
	var shown []v1alpha1.Object
	var errs []error
	for _, s := range statuses {
		file, applied := files[s.Owner]
		if !applied {
			continue
		}
		o, _ := report.WithStatus(s, s.Input.Conditions())
		shown = append(shown, o)
		if s.Ready.Status != metav1.ConditionTrue {
			errs = append(errs, notReady(file, s))
		}
	}
	if err := report.Table(cmd.OutOrStdout(), shown); err != nil {
		return err
	}
	if writes == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "\nNothing was changed.")
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "\nWrites to the kernel: %d.\n", writes)
	}
	return errors.Join(errs...)
}

// notReady is one line: file, kind/name, and why.
func notReady(file string, s engine.Status) error {
	reason, message := s.Ready.Reason, s.Ready.Message
	if s.Input.Accepted.Status == metav1.ConditionFalse {
		reason, message = s.Input.Accepted.Reason, s.Input.Accepted.Message
	}
	name := strings.Replace(s.Owner.Title(), " ", "/", 1)
	if reason == v1alpha1.ReasonPending {
		return fmt.Errorf("%s: %s: %s", file, name, message)
	}
	return fmt.Errorf("%s: %s: %s: %s", file, name, reason, message)
}

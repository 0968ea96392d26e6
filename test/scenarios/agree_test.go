package scenarios

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// envContradictions names the file in which the commands of a script leave what status
// said otherwise than they.
const envContradictions = "PATCHBAY_SCENARIO_CONTRADICTIONS"

// agreePatience is for an agent to hear of what status sees.
const agreePatience = 5 * time.Second

// agrees compares what an agent or apply said last, which is in the records, with what
// status says without flags, until they agree or patience ends.
func agrees() error { return netlab.Retry(agreePatience, statusAgrees) }

func statusAgrees() error {
	said, err := recorded()
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	if code := cli.Run(cli.Options{Args: []string{"status", "-o", "json"}, Stdout: &stdout, Stderr: &stderr}); code != 0 {
		return netlab.Refuted("status ends with %d: %s", code, stderr.String())
	}
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal(stdout.Bytes(), &list); err != nil {
		return err
	}
	if diff := cmp.Diff(said, byName(list.Items)); diff != "" {
		return netlab.Refuted("agent or apply (-) and status (+) contradict each other:\n%s", diff)
	}
	return nil
}

func recorded() (map[string]any, error) {
	list, damaged := report.NewStore("/run/patchbay/objects").Load()
	if len(damaged) > 0 {
		return nil, netlab.Refuted("%w", damaged[0])
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	var items []map[string]any
	if err := json.Unmarshal(text, &items); err != nil {
		return nil, err
	}
	return byName(items), nil
}

// byName leaves out since when a condition holds, which only the record knows.
func byName(items []map[string]any) map[string]any {
	out := map[string]any{}
	for _, item := range items {
		status, _ := item["status"].(map[string]any)
		conditions, _ := status["conditions"].([]any)
		for _, c := range conditions {
			delete(c.(map[string]any), "lastTransitionTime")
		}
		slices.SortFunc(conditions, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		metadata, _ := item["metadata"].(map[string]any)
		out[fmt.Sprint(item["kind"], " ", metadata["namespace"], "/", metadata["name"])] = status
	}
	return out
}

// patchbay runs the command line of this process. Only status finds the firewall by
// itself, whatever the script uses.
func patchbay() int {
	args := os.Args[1:]
	status, applies := slices.Contains(args, "status"), slices.Contains(args, "apply")
	if backend := os.Getenv(envBackend); backend != "" && !status && !slices.ContainsFunc(args, choosesBackend) {
		args = append(args, "--nat-backend="+backend)
	}
	told := &counter{Writer: os.Stdout}
	code := cli.Run(cli.Options{Args: args, Stdin: os.Stdin, Stdout: told, Stderr: os.Stderr})
	if file := os.Getenv(envContradictions); applies && told.bytes > 0 && file != "" {
		if err := agrees(); err != nil {
			leave(file, fmt.Sprintf("after patchbay %s: %v\n", strings.Join(args, " "), err))
		}
	}
	return code
}

type counter struct {
	io.Writer
	bytes int
}

func (c *counter) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return c.Writer.Write(b)
}

func leave(file, text string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

// contradictions fails a script that ends without an error where status has said
// otherwise than an agent or apply.
func contradictions(env *testscript.Env, s *state, file string) {
	t := env.T().(scriptT)
	if t.Failed() {
		return
	}
	if s.agent != nil && !s.agent.frozen {
		if err := agrees(); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err == nil {
		t.Fatal(string(text))
	}
}

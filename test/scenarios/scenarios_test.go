package scenarios

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// These name a script and its variant for the process in the sandbox.
const (
	envScript  = "PATCHBAY_SCENARIO"
	envVariant = "PATCHBAY_SCENARIO_VARIANT"
	envVerbose = "PATCHBAY_SCENARIO_VERBOSE"
	// envBackend is the firewall that patchbay uses; that of a variant goes
	// before what the caller set.
	envBackend = "PATCHBAY_NAT_BACKEND"
)

// scriptLimit is some ten times what the longest script takes on an idle machine.
const scriptLimit = 6 * time.Minute

func TestMain(m *testing.M) {
	if programs[filepath.Base(os.Args[0])] == nil {
		waitSideBySide()
	}
	testscript.Main(m, programs)
}

// waitSideBySide runs four scripts for each processor at once, unless the caller says how
// many: a script mostly waits, for packets that must not arrive.
func waitSideBySide() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0)))
	}
}

func TestScenarios(t *testing.T) { runAll(t, "*.txtar") }

// TestByHand does without Patchbay what the scenarios do with it.
func TestByHand(t *testing.T) { runAll(t, "byhand/*.txtar") }

func runAll(t *testing.T, pattern string) {
	if file := os.Getenv(envScript); file != "" {
		runScript(t, file, os.Getenv(envVariant))
		return
	}
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts match %s: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			runVariants(t, file)
		})
	}
}

var variantsLine = regexp.MustCompile(`(?m)^# variants:(.*)$`)

func runVariants(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := variantsLine.FindSubmatch(text)
	if m == nil {
		runSandboxed(t, file, "")
		return
	}
	for _, v := range strings.Fields(string(m[1])) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			runSandboxed(t, file, v)
		})
	}
}

// runSandboxed runs this test once more for one script, in a sandbox.
func runSandboxed(t *testing.T, file, variant string) {
	top, _, _ := strings.Cut(t.Name(), "/")
	args := []string{"-test.run=^" + top + "$", "-test.count=1", "-test.timeout=" + scriptLimit.String(), "-test.v"}
	cmd := sandbox.Command(os.Args[0], args...)
	// The name of a node is in the MAC addresses of its interfaces.
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUTS
	cmd.Env = append(os.Environ(), envScript+"="+file, envVariant+"="+variant, fmt.Sprintf("%s=%t", envVerbose, testing.Verbose()))
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("in the sandbox:\n%s", out)
	}
	if err != nil {
		t.Fatalf("run in the sandbox: %v", err)
	}
	if _, why, skipped := strings.Cut(string(out), "--- SKIP: "); skipped {
		t.Skipf("skipped in the sandbox: %s", why)
	}
}

func runScript(t *testing.T, file, variant string) {
	if err := sandbox.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Sethostname([]byte(netlab.Node)); err != nil {
		t.Fatal(err)
	}
	v := parseVariant(variant)
	if v["br_netfilter"] != "" {
		setBridgeNetfilter(t, v["br_netfilter"])
	}
	if v["backend"] != "" {
		t.Setenv(envBackend, v["backend"])
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := t.Deadline()
	testscript.RunT(scriptT{t}, testscript.Params{
		Deadline:           deadline,
		Files:              []string{file},
		Cmds:               builtins(),
		RequireUniqueNames: true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "br_netfilter":
				return v["br_netfilter"] == "1", nil
			case "iptables":
				return os.Getenv(envBackend) == "iptables", nil
			case "legacy":
				return exec.Command("iptables-legacy", "-t", "nat", "-S").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SAMPLES", filepath.Join(root, "config/samples"))
			env.Setenv("DOCS", filepath.Join(root, "docs"))
			// The programs live for a moment: what they collect is work for nothing.
			env.Setenv("GOGC", "400")
			env.Setenv(envBackend, os.Getenv(envBackend))
			// What a network is whose ports are to be filtered.
			env.Setenv("PROGRAMMED", "Programmed")
			if os.Getenv(envBackend) == "iptables" {
				env.Setenv("PROGRAMMED", "AntiSpoofUnavailable")
			}
			s := newState(env)
			env.Values[stateKey{}] = s
			file := filepath.Join(env.WorkDir, ".contradictions")
			env.Setenv(envContradictions, file)
			env.Defer(func() { contradictions(env, s, file) })
			return nil
		},
	})
}

// parseVariant reads settings such as br_netfilter=1,backend=iptables.
func parseVariant(text string) map[string]string {
	v := map[string]string{}
	for _, setting := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(setting, "=")
		v[name] = value
	}
	return v
}

// scriptT is verbose when the test outside the sandbox is; inside, -test.v is
// always on, to tell a skipped script from one that passed.
type scriptT struct{ *testing.T }

func (t scriptT) Verbose() bool { return os.Getenv(envVerbose) == "true" }

func (t scriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(scriptT{t}) })
}

func setBridgeNetfilter(t *testing.T, value string) {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := os.WriteFile("/proc/sys/net/bridge/"+name, []byte(value), 0o644)
		if os.IsNotExist(err) && value == "0" {
			return
		}
		if os.IsNotExist(err) {
			t.Skip("the kernel module br_netfilter is not loaded")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/rogpeppe/go-internal/txtar"
)

// envUpdate is set where goldens are to be rewritten.
const envUpdate = "PATCHBAY_UPDATE"

// rules compares our rules in the node's firewall with a golden section of the script.
// Standard output keeps the output of the command before. A script has goldens of the
// backends in its variants; another one, by the caller's environment, is not compared.
func rules(c call) (output, error) {
	if c.neg || len(c.args) > 1 {
		return output{}, errUsage
	}
	before := output{out: c.ReadFile("stdout")}
	if firewallName() != "nftables" && parseVariant(os.Getenv(envVariant))["backend"] == "" {
		return before, nil
	}
	section := strings.Join(append(slices.Clone(c.args), "rules"), ".") + "." + firewallName()
	if os.Getenv(envUpdate) != "" {
		text, err := settledRules()
		if err != nil {
			return output{}, err
		}
		return before, rewrite(os.Getenv(envScript), section, text)
	}
	got, err := ownRules()
	if err != nil {
		return output{}, err
	}
	want, err := os.ReadFile(filepath.Join(c.state.workDir, section))
	if os.IsNotExist(err) {
		return output{}, fmt.Errorf("the script has no section %s: run it with %s=1", section, envUpdate)
	}
	if err == nil && got != string(want) {
		err = netlab.Refuted("other rules than in %s (%s=1 rewrites it):\n%s", section, envUpdate, delta(section, string(want), "the firewall", got))
	}
	return before, err
}

// firewallName is the backend of the script's variant.
func firewallName() string {
	if name := os.Getenv(envBackend); name != "" {
		return name
	}
	return "nftables"
}

// settledRules waits until the rules have been the same for two seconds.
func settledRules() (string, error) {
	last, since := "", time.Now()
	err := netlab.Retry(20*time.Second, func() error {
		now, err := ownRules()
		if now != last {
			last, since = now, time.Now()
		}
		if err == nil && time.Since(since) < 2*time.Second {
			err = netlab.Refuted("the rules keep changing:\n%s", now)
		}
		return err
	})
	return last, err
}

// rewrite replaces a section of a script, or adds it. Variants of a script take turns.
func rewrite(file, section, text string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == section })
	if i < 0 {
		i = len(archive.Files)
		archive.Files = append(archive.Files, txtar.File{Name: section})
	}
	archive.Files[i].Data = []byte(text)
	slices.SortStableFunc(archive.Files, func(a, b txtar.File) int {
		if golden(a.Name) && golden(b.Name) {
			return strings.Compare(a.Name, b.Name)
		}
		return 0
	})
	return os.WriteFile(file, txtar.Format(archive), 0o644)
}

var golden = regexp.MustCompile(`(^|\.)rules\.(nftables|iptables)$`).MatchString

// ownRules are the rules of our objects, without the frame that is the same on every
// node: elements of our sets in nftables, and rules in our chains in iptables. Rules that
// both programs of iptables have stand once. Entries about foreign bridges are left out:
// they exist only where the kernel has br_netfilter.
func ownRules() (string, error) {
	elements, err := ownElements()
	if err != nil {
		return "", err
	}
	four, err := ownSaved("iptables-save")
	if err != nil {
		return "", err
	}
	six, err := ownSaved("ip6tables-save")
	if err != nil {
		return "", err
	}
	in := func(lines []string, has bool) func(string) bool {
		return func(line string) bool { return slices.Contains(lines, line) != has }
	}
	return titled("", elements) +
		titled("# iptables and ip6tables", slices.DeleteFunc(slices.Clone(four), in(six, true))) +
		titled("# iptables alone", slices.DeleteFunc(slices.Clone(four), in(six, false))) +
		titled("# ip6tables alone", slices.DeleteFunc(slices.Clone(six), in(four, false))), nil
}

// titled are lines under a title; nothing without lines.
func titled(title string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	if title != "" {
		lines = append([]string{title}, lines...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// ownElements are the elements of our sets, each as "table set element".
func ownElements() ([]string, error) {
	var lines []string
	for _, family := range []string{"inet", "bridge"} {
		out, err := netlab.Node.Run("nft", "-j", "list", "sets", family)
		if err != nil {
			return nil, err
		}
		maps, err := netlab.Node.Run("nft", "-j", "list", "maps", family)
		if err != nil {
			return nil, err
		}
		for _, text := range []string{out, maps} {
			of, err := elementsIn(text)
			if err != nil {
				return nil, err
			}
			lines = append(lines, of...)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines), nil
}

func elementsIn(text string) ([]string, error) {
	type set struct {
		Family, Table, Name string
		Elem                []any
	}
	var listing struct {
		NFTables []struct{ Set, Map *set }
	}
	if err := json.Unmarshal([]byte(text), &listing); err != nil {
		return nil, fmt.Errorf("read the sets of nft: %w:\n%s", err, text)
	}
	var lines []string
	for _, one := range listing.NFTables {
		s := one.Set
		if s == nil {
			s = one.Map
		}
		if s == nil || s.Table != "patchbay" || s.Name == "foreign_bridge" {
			continue
		}
		for _, e := range s.Elem {
			lines = append(lines, fmt.Sprintf("%s %s { %s }", s.Family, s.Name, elementText(e)))
		}
	}
	return lines, nil
}

// elementText writes an element of nft's JSON as nft itself does without it.
func elementText(e any) string {
	switch e := e.(type) {
	case []any:
		return elementText(e[0]) + " : " + elementText(e[1])
	case map[string]any:
		if inner, ok := e["elem"].(map[string]any); ok {
			return elementText(inner["val"]) + commentText(inner["comment"])
		}
		if parts, ok := e["concat"].([]any); ok {
			return joined(parts, " . ")
		}
		if ends, ok := e["range"].([]any); ok {
			return joined(ends, "-")
		}
		if p, ok := e["prefix"].(map[string]any); ok {
			return fmt.Sprintf("%v/%v", p["addr"], p["len"])
		}
	}
	return fmt.Sprint(e)
}

func joined(parts []any, by string) string {
	var out []string
	for _, p := range parts {
		out = append(out, elementText(p))
	}
	return strings.Join(out, by)
}

func commentText(comment any) string {
	if comment == nil {
		return ""
	}
	return fmt.Sprintf(" comment %q", comment)
}

// objectChain matches rules in the chain of one publish, whose order counts.
var objectChain = regexp.MustCompile(`^(:|-A )PATCHBAY-[ST]-`)

// ownSaved are the lines of our objects that a program prints, with their tables. Where
// their order does not count it is that of the alphabet.
func ownSaved(program string) ([]string, error) {
	var lines []string
	for _, table := range []string{"raw", "filter", "nat"} {
		out, err := netlab.Node.Run(program, "-t", table)
		if err != nil {
			return nil, err
		}
		var free, ordered []string
		for line := range strings.Lines(out) {
			line = table + " " + strings.TrimSpace(line)
			_, rule, _ := strings.Cut(line, " ")
			switch {
			case objectChain.MatchString(rule):
				ordered = append(ordered, strings.TrimSuffix(line, " [0:0]"))
			case strings.Contains(rule, ":foreign-bridge "):
			case strings.Contains(rule, `--comment "patchbay:`):
				free = append(free, line)
			}
		}
		slices.Sort(free)
		slices.SortStableFunc(ordered, func(a, b string) int { return strings.Compare(chainOf(a), chainOf(b)) })
		lines = append(append(lines, free...), ordered...)
	}
	return lines, nil
}

func chainOf(line string) string {
	return strings.TrimPrefix(strings.Fields(line)[1], ":")
}

// wired matches what builds something in the firewall: a network, a publish, or a link
// to the host; or the name of a sample that does.
var wired = regexp.MustCompile(`(?m)^kind: (BridgeNetwork|PortPublish)$|pointToPoint: *\{ *host:|^ *pointToPoint:\n +host:|\$SAMPLES/(quickstart|uplink)`)

// TestScriptsCompareRules: a script that builds something in the firewall compares it.
func TestScriptsCompareRules(t *testing.T) {
	// Its agents run in mount namespaces of their own, within one command.
	exempt := []string{"private-mounts.txtar"}
	compares := regexp.MustCompile(`(?m)^rules( .*)?$`)
	files, err := filepath.Glob("*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if wired.Match(text) && !compares.Match(text) && !slices.Contains(exempt, file) {
			t.Errorf("%s builds something in the firewall and has no line \"rules\"", file)
		}
	}
}

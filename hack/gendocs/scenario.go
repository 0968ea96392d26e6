package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// scenario is a script of test/scenarios with what the page shows of it.
type scenario struct {
	// name is that of the file, title the first paragraph of its comment.
	name, title string
	shown       []shown
	archive     *txtar.Archive
}

// shown is a line "# rules:" of a scenario: manifests that are applied together,
// files of the archive or samples, on a node with the given facts. These are
// forward=drop (the policy of iptables' FORWARD), bridge=NAME (a foreign bridge on a
// node with br_netfilter), address=INTERFACE,CIDR (an address of the node) and
// way=INTERFACE,ADDRESS (another way out, for packets from the address).
type shown struct {
	files []string
	facts map[string]string
}

const samplesPrefix = "$SAMPLES/"

var rulesLine = regexp.MustCompile(`(?m)^# rules: *(.*)$`)

// readScenarios reads all scenarios of a checkout, in the order of their names.
func readScenarios(root string) ([]scenario, error) {
	files, err := filepath.Glob(filepath.Join(root, "test/scenarios/*.txtar"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find scenarios in %s: %w", root, err)
	}
	var out []scenario
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out = append(out, parseScenario(strings.TrimSuffix(filepath.Base(file), ".txtar"), text))
	}
	return out, nil
}

func parseScenario(name string, text []byte) scenario {
	s := scenario{name: name, archive: txtar.Parse(text)}
	s.title = titleOf(string(s.archive.Comment))
	for _, m := range rulesLine.FindAllStringSubmatch(string(s.archive.Comment), -1) {
		one := shown{facts: map[string]string{}}
		for _, word := range strings.Fields(m[1]) {
			if key, value, ok := strings.Cut(word, "="); ok {
				one.facts[key] = value
			} else {
				one.files = append(one.files, word)
			}
		}
		s.shown = append(s.shown, one)
	}
	return s
}

// titleOf is the first paragraph of a script, which is a comment.
func titleOf(script string) string {
	var words []string
	for line := range strings.Lines(script) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		if !ok || strings.HasPrefix(text, "variants:") || strings.HasPrefix(text, "rules:") {
			break
		}
		words = append(words, text)
	}
	return strings.Join(words, " ")
}

var (
	// wired matches what builds something in the firewall: a network, a publish, or
	// a link to the host.
	wired = regexp.MustCompile(`(?m)^kind: (BridgeNetwork|PortPublish)$|pointToPoint: *\{ *host:|^ *pointToPoint:\n +host:`)
	// sampled matches the name of a sample that a script uses.
	sampled = regexp.MustCompile(`\$SAMPLES/\S+\.yaml`)
)

// wires reports whether the scenario builds something in the firewall.
func (s scenario) wires(root string) (bool, error) {
	for _, f := range s.archive.Files {
		if wired.Match(f.Data) {
			return true, nil
		}
	}
	for _, name := range sampled.FindAllString(string(s.archive.Comment), -1) {
		text, err := s.manifest(root, name)
		if err != nil || wired.MatchString(text) {
			return true, err
		}
	}
	return false, nil
}

// manifests are the files of a line, each as it is.
func (s scenario) manifests(root string, one shown) ([]string, error) {
	var out []string
	for _, name := range one.files {
		text, err := s.manifest(root, name)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

func (s scenario) manifest(root, name string) (string, error) {
	if sample, ok := strings.CutPrefix(name, samplesPrefix); ok {
		text, err := os.ReadFile(filepath.Join(root, "config/samples", sample))
		return string(text), err
	}
	for _, f := range s.archive.Files {
		if f.Name == name {
			return string(f.Data), nil
		}
	}
	return "", fmt.Errorf("scenario %s has no file %s", s.name, name)
}

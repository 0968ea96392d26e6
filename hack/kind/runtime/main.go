// Command runtime stands in front of runc on machines whose root lacks
// CAP_SYS_RESOURCE (build machines in a sandbox): there privileged containers,
// raised limits and negative OOM scores are refused by the kernel. It takes them
// out of what the container asks for, and then is runc.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const runc = "/usr/sbin/runc"

func main() {
	if file, isProcess := specOf(os.Args[1:]); file != "" {
		if err := relax(file, isProcess); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	}
	err := syscall.Exec(runc, append([]string{runc}, os.Args[1:]...), os.Environ())
	fmt.Fprintf(os.Stderr, "error: run %s: %v\n", runc, err)
	os.Exit(1)
}

// specOf returns the file with the OCI specification that a command line of
// runc names, if any, and whether it holds a process alone.
func specOf(args []string) (file string, isProcess bool) {
	bundle := "."
	for i, arg := range args {
		name, value, inline := strings.Cut(arg, "=")
		if !inline && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--bundle", "-b":
			bundle = value
		case "--process", "-p":
			return value, true
		}
	}
	if slices.Contains(args, "create") || slices.Contains(args, "run") {
		return filepath.Join(bundle, "config.json"), false
	}
	return "", false
}

// relax rewrites a specification without what the kernel would refuse.
func relax(file string, isProcess bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read container specification: %w", err)
	}
	var spec map[string]any
	// Numbers stay as they are written: a float64 would damage large ones.
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&spec); err != nil {
		return fmt.Errorf("parse container specification %s: %w", file, err)
	}
	process := spec
	if !isProcess {
		process, _ = spec["process"].(map[string]any)
	}
	relaxProcess(process)
	data, err = json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write container specification %s: %w", file, err)
	}
	return os.WriteFile(file, data, 0o600)
}

func relaxProcess(process map[string]any) {
	delete(process, "rlimits")
	if score, ok := process["oomScoreAdj"].(json.Number); ok && strings.HasPrefix(score.String(), "-") {
		delete(process, "oomScoreAdj")
	}
	sets, _ := process["capabilities"].(map[string]any)
	for name, set := range sets {
		list, _ := set.([]any)
		sets[name] = slices.DeleteFunc(list, func(c any) bool { return c == "CAP_SYS_RESOURCE" })
	}
}

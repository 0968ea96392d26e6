package cli

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionOfACheckout(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.2.0"}, Settings: []debug.BuildSetting{
		{Key: "-trimpath", Value: "true"},
		{Key: "vcs.revision", Value: "4f1d2e0c"},
		{Key: "vcs.time", Value: "2026-11-30T20:50:01Z"},
		{Key: "vcs.modified", Value: "true"},
	}}
	want := "patchbay v0.2.0\ncommit   4f1d2e0c with local changes\ndate     2026-11-30T20:50:01Z\ngo       go1.26.8\n"
	if got := buildOf(info).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	info.Settings[3].Value = "false"
	if got := buildOf(info).Commit; got != "4f1d2e0c" {
		t.Errorf("commit of a clean checkout: %q", got)
	}
}

func TestVersionWithoutVersionControl(t *testing.T) {
	want := build{Version: "unknown", Commit: "unknown", Date: "unknown", Go: runtime.Version()}
	if got := buildOf(&debug.BuildInfo{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVersionCommand(t *testing.T) {
	code, out, errs := run("version")
	if code != 0 || errs != "" || out != origin().String() {
		t.Errorf("exit code %d, output %q, errors %q; want %q", code, out, errs, origin())
	}
	if _, help, _ := run("--help"); !strings.Contains(help, "version     Show the version, the commit and the date") {
		t.Errorf("help lacks the command:\n%s", help)
	}
	if _, words, _ := run("__complete", "ver"); !strings.HasPrefix(words, "version\t") {
		t.Errorf("completion of ver: %q", words)
	}
}

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSpecOf(t *testing.T) {
	for _, test := range []struct {
		args      []string
		file      string
		isProcess bool
	}{
		{[]string{"--root", "/r", "create", "--bundle", "/b", "id"}, "/b/config.json", false},
		{[]string{"run", "--bundle=/b", "id"}, "/b/config.json", false},
		{[]string{"exec", "--process", "/p.json", "--detach", "id"}, "/p.json", true},
		{[]string{"--root", "/r", "delete", "--force", "id"}, "", false},
	} {
		if file, isProcess := specOf(test.args); file != test.file || isProcess != test.isProcess {
			t.Errorf("specOf(%q) = %q, %v; want %q, %v", test.args, file, isProcess, test.file, test.isProcess)
		}
	}
}

func TestRelax(t *testing.T) {
	const spec = `{"hostname":"h","linux":{"big":9223372036854775807},"process":{"args":["a"],"capabilities":{"bounding":["CAP_NET_ADMIN","CAP_SYS_RESOURCE"]},"oomScoreAdj":-997,"rlimits":[{"type":"RLIMIT_NOFILE"}]}}`
	const want = `{"hostname":"h","linux":{"big":9223372036854775807},"process":{"args":["a"],"capabilities":{"bounding":["CAP_NET_ADMIN"]}}}`
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := relax(file, false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("relaxed to\n%s\nwant\n%s", got, want)
	}
}

package cli

import "testing"

// TestMistakenCommand types what a newcomer types.
func TestMistakenCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"plan", "web.yaml"}, "error: patchbay plan takes no argument \"web.yaml\": name each file or folder by -f, as in -f web.yaml\n"},
		{[]string{"apply"}, "error: -f FILE, -f DIR or -f - is needed\n"},
		{[]string{"aply"}, "error: unknown command \"aply\" for \"patchbay\"\nerror: Did you mean this?\nerror: apply\n"},
		{[]string{"status", "-o", "jsn"}, "error: --output: \"jsn\" is none of table, yaml, json\n"},
	} {
		if code, _, errs := run(c.args...); code != 1 || errs != c.want {
			t.Errorf("%q: exit code %d and %q, want 1 and %q", c.args, code, errs, c.want)
		}
	}
}

func TestCompletionOfValues(t *testing.T) {
	_, out, _ := run("__complete", "status", "--output", "")
	if want := "table\nyaml\njson\n:4\n"; out != want {
		t.Errorf("completion is %q, want %q", out, want)
	}
}

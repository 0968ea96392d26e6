package bench

import (
	"errors"
	"testing"
)

func TestLastWords(t *testing.T) {
	for text, want := range map[string]string{
		"ADD of the plugin portmap for a000: exit status 1: {\n    \"code\": 999,\n    \"msg\": \"unable to \\\"set up\\\" rules: netlink: Error: Message too long\\n\"\n}": "Message too long",
		"not done after 1m0s": "not done after 1m0s",
		"docker run: exit status 125: docker: Error response from daemon: port is already allocated.\n": "port is already allocated.",
	} {
		if got := lastWords(errors.New(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestKilobytes(t *testing.T) {
	text := []byte("Rss:                3204 kB\nPss:                 734 kB\nPss_Anon:            1 kB\n")
	if n, err := kilobytes(text, "Pss"); err != nil || n != 734<<10 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := kilobytes(text, "Swap"); err == nil {
		t.Error("what is not there is found")
	}
}

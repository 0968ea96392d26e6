package pods

import (
	"strings"
	"testing"
)

func TestNetnsOf(t *testing.T) {
	const under = "the container runtime must keep namespaces under /run/netns"
	network := func(path string) string {
		return `{"runtimeSpec":{"linux":{"namespaces":[{"type":"ipc"},{"type":"network","path":"` + path + `"}]}}}`
	}
	for _, test := range []struct {
		name, info, want string
		host             bool
		problem          string
	}{
		{name: "containerd", info: network("/var/run/netns/cni-6da30a8b-f743-375a-571b-0f04798aebc7"), want: "cni-6da30a8b-f743-375a-571b-0f04798aebc7"},
		{name: "CRI-O", info: network("/run/netns/9b2f0e0c-13ab-4b37-9b2d-6a6d63ee0b6c"), want: "9b2f0e0c-13ab-4b37-9b2d-6a6d63ee0b6c"},
		{name: "no container, so no specification", info: `{"runtimeSpec":null,"sandboxMetadata":{"NetNSPath":"/var/run/netns/cni-a"}}`, want: "cni-a"},
		{name: "both", info: `{"sandboxMetadata":{"NetNSPath":"/var/run/netns/cni-b"},"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/cni-a"}]}}}`, want: "cni-a"},
		{name: "on the host", info: `{"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"}]}}}`, host: true},
		{name: "no namespaces at all", info: `{"runtimeSpec":{"ociVersion":"1.2.0"}}`, problem: "names no path"},
		{name: "a new namespace", info: network(""), problem: "names no path"},
		{name: "spoofed by an old CRI-O", info: "{}", problem: "names no path"},
		{name: "nothing", info: "", problem: "does not tell its network namespace"},
		{name: "no JSON", info: "pid: 682", problem: "read what the container runtime tells"},
		{name: "another type", info: `{"runtimeSpec":{"linux":{"namespaces":"none"}}}`, problem: "read what the container runtime tells"},
		{name: "state folder", info: network("/run/containerd/netns/cni-a"), problem: `its network namespace is at "/run/containerd/netns/cni-a": ` + under},
		{name: "process", info: network("/proc/682/ns/net"), problem: under},
		{name: "Docker", info: network("/var/run/docker/netns/abc"), problem: under},
		{name: "up", info: network("/run/netns/../../etc/passwd"), problem: under},
		{name: "twice", info: network("/run/netns//cni-a"), problem: under},
		{name: "folder", info: network("/run/netns/"), problem: under},
		{name: "dots", info: network("/run/netns/.."), problem: under},
		{name: "dash", info: network("/run/netns/-a"), problem: under},
		{name: "relative", info: network("run/netns/cni-a"), problem: under},
		{name: "line", info: network(`/run/netns/a\nb`), problem: under},
		{name: "too long", info: network("/run/netns/" + strings.Repeat("a", 64)), problem: under},
	} {
		t.Run(test.name, func(t *testing.T) {
			name, host, err := netnsOf(test.info)
			if name != test.want || host != test.host {
				t.Errorf("got %q, host %v, want %q, %v", name, host, test.want, test.host)
			}
			switch {
			case test.problem == "" && err != nil:
				t.Error(err)
			case test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
				t.Errorf("problem is %v, want %q", err, test.problem)
			}
		})
	}
}

// Whatever a runtime says: one of a good name, the host and a problem.
func FuzzNetnsOf(f *testing.F) {
	f.Add(spec(`{"type":"network","path":"/var/run/netns/cni-a"}`)["info"])
	f.Add(spec(`{"type":"pid"}`)["info"])
	f.Add(`{"runtimeSpec":null,"sandboxMetadata":{"NetNSPath":"/run/netns/../x"}}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, info string) {
		name, host, err := netnsOf(info)
		outcomes := 0
		for _, is := range []bool{name != "", host, err != nil} {
			if is {
				outcomes++
			}
		}
		if outcomes != 1 {
			t.Errorf("%q: name %q, host %v, problem %v", info, name, host, err)
		}
		if strings.ContainsAny(name, "/\n\x00 ") || name == "." || name == ".." || len(name) > 63 {
			t.Errorf("%q: name %q", info, name)
		}
	})
}

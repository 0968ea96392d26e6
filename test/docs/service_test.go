package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// mountNamespace matches the options by which systemd gives a service a mount
// namespace of its own (systemd.exec(5), systemd.service(5)).
var mountNamespace = regexp.MustCompile(`^(Private(Tmp|Devices|Mounts|Network|Users|IPC)|Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups|Clock|Hostname|Proc)|` +
	`(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec|Bind|BindReadOnly)(Paths|Directories)|TemporaryFileSystem|Root(Directory|Image)|(Mount|Extension)(Images|Directories)|` +
	`ProcSubset|DynamicUser|MountFlags|MountAPIVFS|LogNamespace|NetworkNamespacePath|LoadCredential\w*|SetCredential\w*)=(.*)$`)

// TestUnitSharesMounts holds the unit of docs/standalone.md to the host's mount namespace: a mount
// in another does not reach the host.
func TestUnitSharesMounts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "standalone.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```ini\n")
	unit, _, closed := strings.Cut(rest, "```")
	if !found || !closed || !strings.Contains(unit, "ExecStart=") {
		t.Fatal("the page shows no unit")
	}
	for line := range strings.Lines(unit) {
		m := mountNamespace.FindStringSubmatch(strings.TrimSpace(line))
		if m != nil && m[len(m)-1] != "no" {
			t.Errorf("%s gives the agent a mount namespace of its own", m[0])
		}
	}
	for _, option := range []string{"PrivateTmp=yes", "ProtectSystem=full", "MountFlags=shared", "ReadWritePaths=/run"} {
		if !mountNamespace.MatchString(option) {
			t.Errorf("%s is not known", option)
		}
	}
}

// TestDaemonSetSharesMounts holds the DaemonSet to the propagation that passes mounts
// both ways, and to the process namespace by which the agent can tell.
func TestDaemonSetSharesMounts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "config/agent/daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var ds appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &ds); err != nil {
		t.Fatal(err)
	}
	spec := ds.Spec.Template.Spec
	bidirectional := func(m corev1.VolumeMount) bool {
		return m.MountPath == "/run/netns" && m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional
	}
	if !slices.ContainsFunc(spec.Containers[0].VolumeMounts, bidirectional) {
		t.Error("mounts under /run/netns do not pass both ways")
	}
	if !spec.HostPID || !spec.HostNetwork {
		t.Error("the agent does not see process 1 of the node")
	}
}

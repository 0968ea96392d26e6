package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// AuditLog is the API server's audit log inside the control plane node: a line
// of JSON for each write, with its user and object. Leases, events and reads are
// left out.
const AuditLog = "/var/log/kubernetes/audit.log"

// policyFile is where the API server finds auditPolicy in its node.
const policyFile = "/etc/kubernetes/audit-policy.yaml"

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: authentication.k8s.io}
  - {group: authorization.k8s.io}
- level: Metadata
`

const auditPatch = `kind: ClusterConfiguration
apiServer:
  extraArgs:
  - {name: audit-policy-file, value: ` + policyFile + `}
  - {name: audit-log-path, value: ` + AuditLog + `}
  extraVolumes:
  - {name: audit-policy, hostPath: ` + policyFile + `, mountPath: ` + policyFile + `, readOnly: true, pathType: File}
  - {name: audit-log, hostPath: /var/log/kubernetes, mountPath: /var/log/kubernetes, pathType: DirectoryOrCreate}
`

// Nothing here needs names resolved, and an image less is needed.
const skipPatch = `kind: InitConfiguration
skipPhases: [preflight, addon/coredns]
`

// kubelet refuses a machine with the old control groups unless told otherwise.
const cgroupPatch = `kind: KubeletConfiguration
failCgroupV1: false
`

// config returns the cluster's configuration; port 0 lets kind choose.
func (c *Cluster) config(ctx context.Context, port int) (*v1alpha4.Cluster, error) {
	policy := c.engine.state("audit-policy.yaml")
	if err := os.MkdirAll(filepath.Dir(policy), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return nil, err
	}
	patches := []string{auditPatch, skipPatch}
	cgroups, err := c.engine.docker(ctx, "info", "--format", "{{.CgroupVersion}}")
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(cgroups) == "1" {
		patches = append(patches, cgroupPatch)
	}
	return &v1alpha4.Cluster{
		Nodes: []v1alpha4.Node{
			{Role: v1alpha4.ControlPlaneRole, ExtraMounts: []v1alpha4.Mount{{HostPath: policy, ContainerPath: policyFile, Readonly: true}}},
			{Role: v1alpha4.WorkerRole},
			{Role: v1alpha4.WorkerRole},
		},
		Networking: v1alpha4.Networking{
			APIServerPort:     int32(port),
			DisableDefaultCNI: true,
			KubeProxyMode:     v1alpha4.NFTablesProxyMode,
		},
		KubeadmConfigPatches: patches,
	}, nil
}

// conflist leads from each pod to its node, and hides it behind the node's
// address beyond. Its records are in /run: no pod outlives a restart.
func conflist(podCIDR string) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0",
  "name": "ptp",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-ipam-state",
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": %q}]]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, podCIDR)
}

package pods

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the longest answer taken, the kubelet's own bound.
const maxMessage = 16 << 20

// client is a connection to a runtime that has answered.
type client struct {
	cri.RuntimeServiceClient
	conn                  *grpc.ClientConn
	socket, name, version string
}

func dial(ctx context.Context, socket string, timeout time.Duration) (*client, error) {
	// The name is for the protocol only: a path may have characters that a URL may not.
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	c := &client{RuntimeServiceClient: cri.NewRuntimeServiceClient(conn), conn: conn, socket: socket}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v, err := c.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("ask the container runtime at %s for its version: %w", socket, err)
	}
	c.name, c.version = v.GetRuntimeName(), v.GetRuntimeVersion()
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

// list returns the sandboxes that are running.
func (c *client) list(ctx context.Context, timeout time.Duration) ([]*cri.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	list, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: ready}})
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes of the container runtime at %s: %w", c.socket, err)
	}
	return list.GetItems(), nil
}

// sharesEvents says whether the runtime gives each event to one of its
// subscribers only, so that we would take them from the kubelet: containerd
// before 2.0 (containerd/containerd#7318).
func (c *client) sharesEvents() bool {
	return c.name == "containerd" && strings.HasPrefix(strings.TrimPrefix(c.version, "v"), "1.")
}

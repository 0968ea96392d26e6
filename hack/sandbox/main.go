// Command sandbox stops the running sandbox of a pod by CRI, as `crictl stopp`
// does, and prints its ID; for tests in nodes without crictl.
//
//	sandbox POD-UID
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const socket = "unix:///run/containerd/containerd.sock"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sandbox POD-UID")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := stop(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// stop stops the sandboxes of a pod that run.
func stop(ctx context.Context, uid string) error {
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	runtime := cri.NewRuntimeServiceClient(conn)
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	list, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: ready}})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	stopped := false
	for _, s := range list.GetItems() {
		if s.GetMetadata().GetUid() != uid {
			continue
		}
		if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.GetId()}); err != nil {
			return fmt.Errorf("stop sandbox %s: %w", s.GetId(), err)
		}
		fmt.Println(s.GetId())
		stopped = true
	}
	if !stopped {
		return errors.New("no sandbox of pod " + uid + " is running")
	}
	return nil
}

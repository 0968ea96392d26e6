// Command sandbox does by CRI what tests need in nodes without crictl.
//
//	sandbox list           prints the IDs of the sandboxes that run, as `crictl pods -q --state ready` does
//	sandbox stop POD-UID   stops the pod's running sandbox, as `crictl stopp` does, and prints its ID
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	runtime := cri.NewRuntimeServiceClient(conn)
	switch {
	case len(args) == 1 && args[0] == "list":
		return list(ctx, runtime)
	case len(args) == 2 && args[0] == "stop":
		return stop(ctx, runtime, args[1])
	}
	return errors.New("usage: sandbox list | sandbox stop POD-UID")
}

func running(ctx context.Context, runtime cri.RuntimeServiceClient) ([]*cri.PodSandbox, error) {
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	list, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: ready}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return list.GetItems(), nil
}

func list(ctx context.Context, runtime cri.RuntimeServiceClient) error {
	sandboxes, err := running(ctx, runtime)
	for _, s := range sandboxes {
		fmt.Println(s.GetId())
	}
	return err
}

func stop(ctx context.Context, runtime cri.RuntimeServiceClient, uid string) error {
	sandboxes, err := running(ctx, runtime)
	if err != nil {
		return err
	}
	stopped := false
	for _, s := range sandboxes {
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

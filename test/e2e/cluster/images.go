package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/kind/pkg/apis/config/defaults"
)

// Image is the name of Patchbay's own image.
const Image = "patchbay:dev"

// baseImage is what the Dockerfile starts from.
const baseImage = "debian:trixie-slim"

// BuildImage builds Patchbay's image from bin/patchbay and the Dockerfile,
// starting a Docker engine if there is none.
func BuildImage(ctx context.Context, progress Progress) error {
	e, err := startEngine(ctx, progress)
	if err != nil {
		return err
	}
	return e.buildImage(ctx)
}

// BuildImage is the function of the same name, with the cluster's engine.
func (c *Cluster) BuildImage(ctx context.Context) error { return c.engine.buildImage(ctx) }

func (e *engine) buildImage(ctx context.Context) error {
	root, err := repository()
	if err != nil {
		return err
	}
	if !exists(filepath.Join(root, "bin", "patchbay")) {
		return fmt.Errorf("build image %s: bin/patchbay is missing: run make build", Image)
	}
	base, err := e.pullOrBuild(ctx, baseImage, "hack/kind/base-image.sh")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "docker", "build", "--quiet", "--tag", Image, "--build-arg", "BASE_IMAGE="+base, root)
	if e.do(ctx, "buildx", "version") != nil {
		// The client's own builder is what there is without buildx.
		cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	}
	build := func() error {
		_, err := output(cmd)
		return err
	}
	if base == baseImage {
		// It lacks packages; an image that is built here does not.
		err = e.online(ctx, build)
	} else {
		err = build()
	}
	if err != nil {
		return fmt.Errorf("build image %s: %w", Image, err)
	}
	e.progress("image %s is built", Image)
	return nil
}

// nodeImage returns the image that nodes are made from.
func (e *engine) nodeImage(ctx context.Context) (string, error) {
	if image := os.Getenv("KIND_NODE_IMAGE"); image != "" {
		return image, nil
	}
	return e.pullOrBuild(ctx, defaults.Image, "hack/kind/node-image.sh")
}

// pullOrBuild returns a standard image, or the image of a script where it cannot be
// pulled. An image that was built before is taken without another try.
func (e *engine) pullOrBuild(ctx context.Context, standard, build string) (string, error) {
	if e.do(ctx, "image", "inspect", standard) == nil {
		return standard, nil
	}
	if built, err := script(ctx, build, "--cached"); err == nil && built != "" {
		return built, nil
	}
	e.progress("pulling %s", standard)
	err := e.online(ctx, func() error { return e.pull(ctx, standard) })
	if err == nil {
		return standard, nil
	}
	e.progress("cannot pull %s: %v", standard, err)
	return script(ctx, build)
}

// pull pulls an image, and gives up where the registry does not answer within
// 20 seconds; after that it may take its time.
func (e *engine) pull(ctx context.Context, image string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", "pull", image)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	timeout := time.AfterFunc(20*time.Second, cancel)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run docker pull: %w", err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		// The first line comes with the manifest.
		timeout.Stop()
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

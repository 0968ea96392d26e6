package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// atOnce is how many sandboxes are asked for at a time.
const atOnce = 8

// described is a sandbox with its age, by which the newest of a pod is chosen.
type described struct {
	Sandbox
	created int64
	attempt uint32
}

// errGone means that a sandbox has gone since it was listed.
var errGone = errors.New("the sandbox is gone")

// describe asks the runtime for each new sandbox, forgets the sandboxes that are
// gone, and returns one per pod. A sandbox that the runtime does not describe has
// that as its problem and is asked for again next time. An error is about the runtime
// as a whole.
func (w *watch) describe(ctx context.Context, c *client, running []*cri.PodSandbox) (list []Sandbox, unanswered bool, err error) {
	answers := make([]Sandbox, len(running))
	errs := make([]error, len(running))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, s := range running {
		var known bool
		if answers[i], known = w.known[s.GetId()]; known {
			continue
		}
		group.Go(func() error {
			answers[i], errs[i] = c.describe(groupCtx, s, w.pace.status)
			if status.Code(errs[i]) == codes.Unavailable {
				return errs[i]
			}
			return nil
		})
	}
	if err := errors.Join(group.Wait(), ctx.Err()); err != nil {
		return nil, false, err
	}
	clear(w.known)
	var all []described
	for i, s := range running {
		switch {
		case errors.Is(errs[i], errGone):
			continue
		case errs[i] != nil:
			w.fail(errs[i])
			unanswered = true
			answers[i].Problem = "the container runtime does not describe its sandbox: " + errs[i].Error()
		default:
			w.known[s.GetId()] = answers[i]
		}
		all = append(all, described{answers[i], s.GetCreatedAt(), s.GetMetadata().GetAttempt()})
	}
	return onePerPod(all), unanswered, nil
}

// describe asks for one sandbox.
func (c *client) describe(ctx context.Context, listed *cri.PodSandbox, timeout time.Duration) (Sandbox, error) {
	m := listed.GetMetadata()
	s := Sandbox{ID: listed.GetId(), UID: m.GetUid(), Namespace: m.GetNamespace(), Name: m.GetName()}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.ID, Verbose: true})
	switch {
	case status.Code(err) == codes.NotFound:
		return s, errGone
	case err != nil:
		return s, fmt.Errorf("ask for sandbox %s: %w", s.ID, err)
	case answer.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY:
		return s, errGone
	case answer.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE:
		s.HostNetwork = true
		return s, nil
	}
	s.Netns, s.HostNetwork, err = netnsOf(answer.GetInfo()["info"])
	if err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}

// sandboxInfo is the description by containerd and CRI-O of a sandbox beside CRI. For a
// sandbox that is no container, containerd knows the path but no specification.
type sandboxInfo struct {
	RuntimeSpec *struct {
		Linux struct {
			Namespaces []namespace `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
	SandboxMetadata struct {
		NetNSPath string
	} `json:"sandboxMetadata"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path"`
}

// netnsOf reads the verbose part of a sandbox's description. A specification
// without a network namespace describes a process in the node's own.
func netnsOf(info string) (name string, host bool, err error) {
	if info == "" {
		return "", false, errors.New("the container runtime does not tell its network namespace: containerd and CRI-O do")
	}
	var s sandboxInfo
	if err := json.Unmarshal([]byte(info), &s); err != nil {
		return "", false, fmt.Errorf("read what the container runtime tells of its network namespace: %w", err)
	}
	at := s.SandboxMetadata.NetNSPath
	if s.RuntimeSpec != nil {
		list := s.RuntimeSpec.Linux.Namespaces
		i := slices.IndexFunc(list, func(n namespace) bool { return n.Type == "network" })
		switch {
		case i >= 0 && list[i].Path != "":
			at = list[i].Path
		case i < 0 && len(list) > 0 && at == "":
			return "", true, nil
		}
	}
	if at == "" {
		return "", false, errors.New("the container runtime names no path of its network namespace: it must keep namespaces under /run/netns")
	}
	name, err = netnsName(at)
	return name, false, err
}

// netnsPattern is what the API calls the name of a network namespace.
var netnsPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// netnsName returns the name of a namespace under /run/netns.
func netnsName(at string) (string, error) {
	folder, name := path.Split(at)
	if (folder != "/run/netns/" && folder != "/var/run/netns/") || !netnsPattern.MatchString(name) {
		return "", fmt.Errorf("its network namespace is at %q: the container runtime must keep namespaces under /run/netns", at)
	}
	return name, nil
}

package nat

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// choose takes nftables where it works, else iptables.
func choose(opts Options) (Backend, error) {
	nft, err := newNFTables(opts)
	// A program that hangs is no reason to write another firewall.
	if hangs := (*NoAnswer)(nil); err == nil || errors.As(err, &hangs) {
		return nft, err
	}
	ipt, other := newIPTables("", opts)
	if other == nil {
		other = ipt.usable()
	}
	if other != nil {
		return nil, fmt.Errorf("this node has no firewall to use: %s: %w; %s: %w", KindNFTables, err, KindIPTables, other)
	}
	return ipt, nil
}

// InUse returns the backend that holds most of the source's objects, whoever chose
// it; where none holds any, the one of the kind that was used last, else of auto. It is
// loaded, if it could be.
func InUse(ctx context.Context, last string, opts Options) (Backend, error) {
	best, err := New(last, opts)
	if err != nil {
		best, err = New(KindAuto, opts)
	}
	if err != nil {
		return nil, err
	}
	most := holds(ctx, best)
	for _, o := range others(best, opts) {
		if n := holds(ctx, o); n > most {
			best, most = o, n
		}
	}
	return best, nil
}

func holds(ctx context.Context, b Backend) int {
	if b.Load(ctx) != nil {
		return 0
	}
	return len(b.Held())
}

// tryNFT asks the kernel whether it would take a table, without making it.
func tryNFT(ctx context.Context, nft string) error {
	version, err := output(ctx, "", nft, "--version")
	if err != nil {
		return fmt.Errorf("ask nft for its version: %w", err)
	}
	if text := strings.TrimSpace(string(version)); strings.HasPrefix(text, "nftables v0.") || strings.HasPrefix(text, "nftables v1.0.0 ") {
		return fmt.Errorf("nft is too old: %s: install 1.0.1 or newer", text)
	}
	if _, err := output(ctx, "", nft, "--check", "add table inet "+tableName); err != nil {
		return fmt.Errorf("try to add a table: %w", err)
	}
	return nil
}

// retiree is a backend that another one takes the place of.
type retiree interface {
	Backend
	retire(context.Context) error
}

// Retire removes what the node's other firewalls hold of the source, after
// somebody had chosen them: once the backend in use holds all that is wanted.
// Connections stay. It writes nothing where there is nothing.
func Retire(ctx context.Context, inUse Backend, opts Options) error {
	var errs []error
	for _, o := range others(inUse, opts) {
		errs = append(errs, o.retire(ctx))
	}
	return errors.Join(errs...)
}

// CleanAll removes everything of ours from every firewall of the node, whatever
// its source.
func CleanAll(ctx context.Context, inUse Backend, opts Options) error {
	errs := []error{inUse.Clean(ctx)}
	for _, o := range others(inUse, opts) {
		errs = append(errs, o.Clean(ctx))
	}
	return errors.Join(errs...)
}

// others are the node's firewalls beside the one in use that may hold something,
// as far as that saw when it was loaded: programs are only run where they have
// to be.
func others(inUse Backend, opts Options) []retiree {
	if opts.Step == nil {
		opts.Step = func() {}
	}
	var out []retiree
	add := func(v variant) {
		if b, err := newIPTables(v, opts); err == nil && b.legacy == (v == variantLegacy) {
			out = append(out, b)
		}
	}
	switch b := inUse.(type) {
	case *nftables:
		if b.beside {
			add(variantNFT)
		}
		if legacyTables() {
			add(variantLegacy)
		}
	case *iptables:
		if n, err := newNFTables(opts); err == nil && b.beside {
			out = append(out, n.(retiree))
		}
		if b.legacy && b.besideIP {
			add(variantNFT)
		}
		if !b.legacy && legacyTables() {
			add(variantLegacy)
		}
	}
	return out
}

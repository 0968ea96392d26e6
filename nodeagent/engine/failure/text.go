package failure

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Conflict says that another program has the name of an object.
func Conflict(c plan.Conflict) error {
	ns, _ := c.Found.(netstate.Netns)
	switch {
	case ns.Apart:
		return fmt.Errorf("network namespace %s: %s: %w", c.Key.Netns, ns.Instead, kernel.ErrMountsApart)
	case ns.Instead != "" && c.Want == netstate.Netns{Name: ns.Name}:
		return fmt.Errorf("network namespace %s is %w: %s", c.Key.Netns, ErrMissing, ns.Instead)
	case ns.Instead != "":
		return fmt.Errorf("the name of network namespace %s is %w: %s", c.Key.Netns, ErrTaken, ns.Instead)
	case c.Found == nil:
		return fmt.Errorf("network namespace %s is %w: create it (ip netns add %s), or use lifecycle Managed", c.Key.Netns, ErrMissing, c.Key.Netns)
	case c.Key.Kind == netstate.KindNetns:
		return fmt.Errorf("network namespace %s is %w by another program: use lifecycle External, another name, or delete it", c.Key.Netns, ErrTaken)
	}
	return fmt.Errorf("interface %s is %w by another program (%s): choose another name, or delete it", plan.Describe(c.Key), ErrTaken, c.Found)
}

// Advised adds what only the owner of a default route that stands behind a
// foreign one can say.
func Advised(k netstate.Key, err error) error {
	if k.Kind == netstate.KindRoute && strings.HasSuffix(k.Name, "/0") && errors.Is(err, kernel.ErrForeign) {
		return fmt.Errorf("%w; or set spec.defaultRoute to true to go before it, to false to leave it", err)
	}
	return err
}

// Port says why a port of another's bridge does not forward. Listening and
// learning end by themselves.
func Port(l netstate.Link) error {
	text := fmt.Sprintf("port %s of bridge %s is %s: ", l.Name, l.Master, l.Waits)
	switch l.Waits {
	case netstate.BridgeDown:
		return fmt.Errorf("%w bridge %s, which Patchbay did not make and which is down (ip link set %s up)", ErrWaits, l.Master, l.Master)
	case "listening", "learning":
		return fmt.Errorf("%sthe bridge's spanning tree %w", text, ErrForwardsSoon)
	}
	return fmt.Errorf("%sit %w the bridge's spanning tree, which has another way or was told so (bridge -d link show dev %s)", text, ErrWaits, l.Name)
}

// Filtered says of a link that another program's filter takes all of its packets.
func Filtered(l netstate.Link) error {
	tc := "tc"
	if l.Netns != "" {
		tc += " -n " + l.Netns
	}
	return fmt.Errorf("a filter of traffic control on interface %s %w: it takes all packets at %s (see: %s filter show dev %s %s; remove: %s filter del dev %s %s)",
		netstate.End{Netns: l.Netns, Name: l.Name}, ErrObstructed, l.Taken, tc, l.Name, l.Taken, tc, l.Name, l.Taken)
}

// Explain names the errors that are not mere consequences of other errors.
func Explain(errs map[netstate.Key]error, contested string) (reason, message string) {
	var texts []string
	reason = v1alpha1.ReasonPending
	if contested != "" {
		reason, texts = v1alpha1.ReasonContested, []string{contested}
	}
	for _, k := range slices.SortedFunc(maps.Keys(errs), netstate.Key.Compare) {
		err := Explained(k, errs[k])
		if errors.Is(err, ErrContested) || errors.Is(err, ErrWaits) && reason != v1alpha1.ReasonPending {
			continue
		}
		if r := ReasonOf(k, err); r != v1alpha1.ReasonPending && reason == v1alpha1.ReasonPending {
			reason, texts = r, nil
		}
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	return reason, strings.Join(texts, "; ")
}

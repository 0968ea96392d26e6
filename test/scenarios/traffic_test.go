package scenarios

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// refusalPatience is how long the script waits for an answer that it does not expect: one
// takes a millisecond.
const refusalPatience = 400 * time.Millisecond

// patience is how long c awaits an answer, on an idle machine.
func (c call) patience() time.Duration {
	if c.neg {
		return refusalPatience
	}
	return netlab.DialPatience
}

func lan(c call) (output, error) {
	if c.neg || len(c.args) != 4 {
		return output{}, errUsage
	}
	return output{}, netlab.Machine{Netns: netlab.Netns(c.args[0]), Port: c.args[1], Node: cidrs(c.args[2]), Own: cidrs(c.args[3])}.Make()
}

// cidrs are separated by commas; "-" is none.
func cidrs(text string) []string {
	if text == "-" {
		return nil
	}
	return strings.Split(text, ",")
}

func ping(c call) (output, error) {
	if len(c.args) != 2 {
		return output{}, errUsage
	}
	address, err := netip.ParseAddr(c.args[1])
	if err != nil {
		return output{}, err
	}
	requests := 1
	if c.neg {
		requests = 2
	}
	out, err := netlab.Ping(netlab.Netns(c.args[0]), address, requests)
	return output{out: out}, err
}

func serve(c call) (output, error) {
	if c.neg || len(c.args) < 3 || len(c.args) > 4 {
		return output{}, errUsage
	}
	server, err := netlab.Serve(netlab.Netns(c.args[0]), c.args[1], c.args[2], strings.Join(c.args[3:], ""))
	if err == nil {
		c.Defer(func() { server.Close() })
	}
	return output{}, err
}

func dial(c call) (output, error) {
	if len(c.args) < 3 || len(c.args) > 4 {
		return output{}, errUsage
	}
	if _, err := netip.ParseAddrPort(c.args[2]); err != nil {
		return output{}, err
	}
	want, err := regexp.Compile("(?m)" + strings.Join(c.args[3:], ""))
	if err != nil {
		return output{}, err
	}
	got, err := netlab.Ask(netlab.Netns(c.args[0]), c.args[1], c.args[2], c.patience())
	if err == nil && !want.MatchString(got) {
		err = fmt.Errorf("%q does not match the answer:\n%s", want, got)
	}
	return output{out: got}, err
}

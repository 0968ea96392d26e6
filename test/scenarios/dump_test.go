package scenarios

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpLinks is what netlink knows of a namespace, without what changes by
// itself: counters, lifetimes, carrier, neighbours, and routes to link-local
// and multicast destinations.
func dumpLinks(name netlab.Netns) ([]string, error) {
	h, err := netlab.In(name, func() (*netlink.Handle, error) { return netlink.NewHandle() })
	if err != nil {
		return nil, err
	}
	defer h.Close()
	d := dumper{Handle: h, netns: name, names: map[int]string{0: "-"}}
	for _, part := range []func() error{d.links, d.addresses, d.routes, d.rules} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return d.lines, nil
}

type dumper struct {
	*netlink.Handle
	netns netlab.Netns
	names map[int]string
	all   []netlink.Link
	lines []string
}

func (d *dumper) addf(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

const lastingFlags = unix.IFF_UP | unix.IFF_NOARP | unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_MULTICAST

func (d *dumper) links() (err error) {
	if d.all, err = d.LinkList(); err != nil {
		return err
	}
	for _, l := range d.all {
		d.names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range d.all {
		a := l.Attrs()
		d.addf("link %s index=%d type=%s master=%s flags=%#x mtu=%d mac=%s group=%#x alias=%q", a.Name, a.Index, l.Type(),
			d.names[a.MasterIndex], a.RawFlags&lastingFlags, a.MTU, a.HardwareAddr, a.Group, a.Alias)
		if l.Type() == "bridge" {
			known, err := d.NeighList(a.Index, unix.AF_BRIDGE)
			if err != nil {
				return fmt.Errorf("read the table of %s: %w", a.Name, err)
			}
			d.addf("bridge %s has its own MAC in its table: %v", a.Name, slices.ContainsFunc(known, func(n netlink.Neigh) bool {
				return n.HardwareAddr.String() == a.HardwareAddr.String() && n.State&unix.NUD_PERMANENT != 0
			}))
		}
		if a.MasterIndex == 0 {
			continue
		}
		port, err := d.LinkGetProtinfo(l)
		if err != nil {
			return fmt.Errorf("read bridge port %s: %w", a.Name, err)
		}
		d.addf("port %s %s isolated=%v", a.Name, port.String(), port.Isolated)
	}
	return d.details()
}

// details are the attributes of bridges and their ports, which vishvananda's netlink
// does not read.
func (d *dumper) details() error {
	if !slices.ContainsFunc(d.all, func(l netlink.Link) bool { return l.Type() == "bridge" }) {
		return nil
	}
	out, err := d.netns.Run("ip", "-d", "-j", "link")
	if err != nil {
		return err
	}
	var links []struct {
		Name string `json:"ifname"`
		Info struct {
			Data  map[string]any `json:"info_data"`
			Slave map[string]any `json:"info_slave_data"`
		} `json:"linkinfo"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return fmt.Errorf("read ip -d -j link: %w", err)
	}
	for _, l := range links {
		for _, data := range []map[string]any{l.Info.Data, l.Info.Slave} {
			maps.DeleteFunc(data, func(key string, _ any) bool { return movingDetail.MatchString(key) })
			if len(data) > 0 {
				d.addf("details of %s %v", l.Name, data)
			}
		}
	}
	return nil
}

// movingDetail matches what changes by itself.
var movingDetail = regexp.MustCompile(`timer|topology|root|bridge_id|^designated|^port_|^no$|^id$|n_learned`)

func (d *dumper) addresses() error {
	addrs, err := d.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		d.addf("address %s %s scope=%d label=%s flags=%#x", d.names[a.LinkIndex], a.IPNet, a.Scope, a.Label,
			a.Flags&(unix.IFA_F_NOPREFIXROUTE|unix.IFA_F_SECONDARY|unix.IFA_F_DEPRECATED|unix.IFA_F_PERMANENT))
	}
	return nil
}

func (d *dumper) routes() error {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := d.RouteListFiltered(family, every, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst == nil || r.Type != unix.RTN_ANYCAST && !kernelsOwn(r.Dst.IP) {
				d.addf("route table=%d %v via=%v dev=%s src=%v proto=%d scope=%d type=%d metric=%d mtu=%d multipath=%v", r.Table, r.Dst,
					r.Gw, d.names[r.LinkIndex], r.Src, r.Protocol, r.Scope, r.Type, r.Priority, r.MTU, r.MultiPath)
			}
		}
	}
	return nil
}

// kernelsOwn tells the IPv6 routes that come and go with a link by themselves. Anycast
// ones, of a router, do as well: one stays for good where forwarding is switched on
// while the kernel still adds the address.
func kernelsOwn(dst net.IP) bool {
	return dst.To4() == nil && (dst.IsLinkLocalUnicast() || dst.IsMulticast())
}

func (d *dumper) rules() error {
	rules, err := d.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range rules {
		d.addf("rule family=%d %s iif=%s oif=%s", r.Family, r.String(), r.IifName, r.OifName)
	}
	slices.Sort(d.lines)
	return nil
}

package rtnl

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is a sysctl of a link that messages of the link tell as well: a family, and the
// place among the numbers of its IFLA_INET_CONF or IFLA_INET6_CONF. These are the
// constants IPV4_DEVCONF of linux/ip.h less 1, and DEVCONF of linux/ipv6.h.
type setting struct{ family, place int }

var settings = map[string]setting{
	"ipv4/forwarding":        {unix.AF_INET, 0},
	"ipv4/rp_filter":         {unix.AF_INET, 7},
	"ipv4/arp_ignore":        {unix.AF_INET, 18},
	"ipv4/route_localnet":    {unix.AF_INET, 25},
	"ipv6/forwarding":        {unix.AF_INET6, 0},
	"ipv6/accept_ra":         {unix.AF_INET6, 3},
	"ipv6/disable_ipv6":      {unix.AF_INET6, 26},
	"ipv6/accept_dad":        {unix.AF_INET6, 27},
	"ipv6/keep_addr_on_down": {unix.AF_INET6, 42},
}

func settingOf(link, path string) (setting, bool) {
	family, name, ok := strings.Cut(strings.TrimPrefix(path, "net/"), "/conf/"+link+"/")
	s, known := settings[family+"/"+name]
	return s, ok && known
}

// IsSetting reports whether messages of a link tell the sysctl of a path below /proc/sys.
func IsSetting(link, path string) bool {
	_, ok := settingOf(link, path)
	return ok
}

// Value returns a sysctl that IsSetting; false for a link that lacks it, such as one
// without IPv6.
func (l *Link) Value(path string) (string, bool) {
	s, ok := settingOf(l.Name, path)
	numbers := l.inet
	if s.family == unix.AF_INET6 {
		numbers = l.inet6
	}
	if !ok || len(numbers) < 4*(s.place+1) {
		return "", false
	}
	return strconv.Itoa(int(int32(Uint32(numbers[4*s.place:])))), true
}

// parseFamilies keeps the settings of IPv4 and IPv6.
func (l *Link) parseFamilies(b []byte) {
	for family, value := range Attributes(b) {
		for kind, numbers := range Attributes(value) {
			switch {
			case family == unix.AF_INET && kind == unix.IFLA_INET_CONF:
				l.inet = numbers
			case family == unix.AF_INET6 && kind == unix.IFLA_INET6_CONF:
				l.inet6 = numbers
			}
		}
	}
}

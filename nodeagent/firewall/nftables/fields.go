package nftables

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// parseFields reads a value, or several in {"concat": [...]}, into canonical
// text.
func parseFields(types []field, raw json.RawMessage, interval bool) (string, error) {
	values := []json.RawMessage{raw}
	var concat struct {
		Concat []json.RawMessage `json:"concat"`
	}
	if json.Unmarshal(raw, &concat) == nil && concat.Concat != nil {
		values = concat.Concat
	}
	if len(values) != len(types) {
		return "", fmt.Errorf("%s has not %d parts", raw, len(types))
	}
	text := make([]string, len(values))
	for i := range values {
		var err error
		if text[i], err = parseField(types[i], values[i], interval); err != nil {
			return "", err
		}
	}
	return join(text), nil
}

func parseField(f field, raw json.RawMessage, interval bool) (string, error) {
	if interval && (f == fieldIPv4 || f == fieldIPv6) {
		p, err := parsePrefix(raw)
		if err == nil && p.Addr().Is4() != (f == fieldIPv4) {
			err = fmt.Errorf("%s is not an %s", p, f)
		}
		return p.String(), err
	}
	if interval && f == fieldTarget {
		return parseTargets(raw)
	}
	if interval && f == fieldPort {
		return parsePorts(raw)
	}
	text, err := parseScalar(raw)
	if err != nil {
		return "", err
	}
	switch f {
	case fieldLink:
		return text, book.CheckLink(text)
	case fieldMAC:
		m, err := netstate.ParseMAC(text)
		return m.String(), err
	case fieldIPv4, fieldIPv6:
		a, err := netip.ParseAddr(text)
		if err == nil && a.Is4() != (f == fieldIPv4) {
			err = fmt.Errorf("%s is not an %s", a, f)
		}
		return a.String(), err
	case fieldTarget:
		return parseTarget(text)
	case fieldSlot:
		return parseSlot(text)
	case fieldProto, fieldFamily, fieldPort:
		return parseName(f, text)
	}
	return "", fmt.Errorf("unknown type %s", f)
}

// parseScalar reads a string or a number, however large.
func parseScalar(raw json.RawMessage) (string, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	}
	return "", fmt.Errorf("%s is neither text nor number", raw)
}

// parsePorts reads {"range": [first, last]}, or a port alone.
func parsePorts(raw json.RawMessage) (string, error) {
	var v struct {
		Range []json.RawMessage `json:"range"`
	}
	if json.Unmarshal(raw, &v) != nil || v.Range == nil {
		text, err := parseScalar(raw)
		if err != nil {
			return "", err
		}
		return parseName(fieldPort, text)
	}
	if len(v.Range) != 2 {
		return "", fmt.Errorf("%s is not a range", raw)
	}
	first, err := parsePorts(v.Range[0])
	if err != nil {
		return "", err
	}
	last, err := parsePorts(v.Range[1])
	return first + "-" + last, err
}

// parsePrefix reads {"prefix": {"addr": a, "len": n}}, or the address alone.
func parsePrefix(raw json.RawMessage) (netip.Prefix, error) {
	var v struct {
		Prefix struct {
			Addr netip.Addr `json:"addr"`
			Len  int        `json:"len"`
		} `json:"prefix"`
	}
	if json.Unmarshal(raw, &v) == nil && v.Prefix.Addr.IsValid() {
		p, err := v.Prefix.Addr.Prefix(v.Prefix.Len)
		return p, err
	}
	text, err := parseScalar(raw)
	if err != nil {
		return netip.Prefix{}, err
	}
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

// parseTarget reads 16 bytes listed as a number, in hexadecimal where it is
// large.
func parseTarget(text string) (string, error) {
	n, ok := new(big.Int).SetString(text, 0)
	if !ok || n.Sign() < 0 || n.BitLen() > 128 {
		return "", fmt.Errorf("%q is not a number of 128 bits", text)
	}
	var b [16]byte
	n.FillBytes(b[:])
	return netip.AddrFrom16(b).String(), nil
}

// parseTargets reads a prefix of targets: a range of numbers, one number, or a
// prefix of one.
func parseTargets(raw json.RawMessage) (string, error) {
	var v struct {
		Range  []json.RawMessage `json:"range"`
		Prefix struct {
			Addr json.RawMessage `json:"addr"`
			Len  int             `json:"len"`
		} `json:"prefix"`
	}
	first, bits := raw, 128
	if json.Unmarshal(raw, &v) == nil {
		switch {
		case len(v.Range) == 2:
			return targetRange(v.Range[0], v.Range[1])
		case v.Prefix.Addr != nil:
			first, bits = v.Prefix.Addr, v.Prefix.Len
		}
	}
	a, err := targetAddr(first)
	if err != nil {
		return "", err
	}
	p, err := a.Prefix(bits)
	return p.String(), err
}

func targetAddr(raw json.RawMessage) (netip.Addr, error) {
	text, err := parseScalar(raw)
	if err != nil {
		return netip.Addr{}, err
	}
	if text, err = parseTarget(text); err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(text)
}

// targetRange is the prefix that begins and ends with two numbers.
func targetRange(first, last json.RawMessage) (string, error) {
	a, err1 := targetAddr(first)
	b, err2 := targetAddr(last)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	for bits := range 129 {
		if p, _ := a.Prefix(bits); p.Addr() == a && lastOf(p) == b {
			return p.String(), nil
		}
	}
	return "", fmt.Errorf("%s to %s is not a prefix", a, b)
}

// parseSlot reads a slot, in whatever base it is listed.
func parseSlot(text string) (string, error) {
	n, err := strconv.ParseUint(text, 0, 8)
	if err == nil && n >= netstate.MaxTargets {
		err = fmt.Errorf("there is no slot %d", n)
	}
	return strconv.FormatUint(n, 10), err
}

// parseName reads what nft may list by name or by number.
func parseName(f field, text string) (string, error) {
	switch f {
	case fieldPort:
		n, err := strconv.ParseUint(text, 10, 16)
		return strconv.FormatUint(n, 10), err
	case fieldProto:
		for name, n := range conntrack.Protocols {
			if text == name || text == strconv.Itoa(int(n)) {
				return name, nil
			}
		}
	case fieldFamily:
		switch text {
		case string(netstate.IPv4), "2":
			return string(netstate.IPv4), nil
		case string(netstate.IPv6), "10":
			return string(netstate.IPv6), nil
		}
	}
	return "", fmt.Errorf("%q is not an %s", text, f)
}

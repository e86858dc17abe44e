package web

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// special are the networks that nobody is called in unless the policy opens them: a job must not reach what
// only the worker's machine and network can.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared (carrier-grade NAT)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "reserved"},
	{netip.MustParsePrefix("192.88.99.0/24"), "reserved"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "reserved"},
	{netip.MustParsePrefix("198.51.100.0/24"), "reserved"},
	{netip.MustParsePrefix("203.0.113.0/24"), "reserved"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "translated"},
	{netip.MustParsePrefix("100::/64"), "reserved"},
	{netip.MustParsePrefix("2001::/23"), "reserved"},
	{netip.MustParsePrefix("2001:db8::/32"), "reserved"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "private"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// embedding are networks whose addresses stand for an IPv4 address, from this byte on: that one is judged.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

// policy says who may be called.
type policy struct {
	allow, deny          []netip.Prefix
	denyHosts, onlyHosts []string
}

func newPolicy(cfg Config) (policy, error) {
	var p policy
	for _, text := range cfg.Allow {
		prefix, err := parseNetwork(text)
		if err != nil {
			return p, fmt.Errorf("allow %q: a network as 10.0.0.0/8, or an address", text)
		}
		p.allow = append(p.allow, prefix)
	}
	for _, text := range cfg.Deny {
		if prefix, err := parseNetwork(text); err == nil {
			p.deny = append(p.deny, prefix)
		} else if host, ok := parseHost(text); ok {
			p.denyHosts = append(p.denyHosts, host)
		} else {
			return p, fmt.Errorf("deny %q: a network as 10.0.0.0/8, an address, or a host", text)
		}
	}
	for _, text := range cfg.Only {
		host, ok := parseHost(text)
		if !ok {
			return p, fmt.Errorf("only %q: a host", text)
		}
		p.onlyHosts = append(p.onlyHosts, host)
	}
	return p, nil
}

func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap().WithZone("")
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(text)
	if err == nil && prefix.Addr().Is4In6() {
		return prefix, fmt.Errorf("write it as IPv4")
	}
	return prefix.Masked(), err
}

func parseHost(text string) (string, bool) {
	host := strings.Trim(strings.ToLower(strings.TrimPrefix(text, "*")), ".")
	return host, host != "" && !strings.ContainsAny(host, "/:@*? \t")
}

// below reports whether host is one of hosts or below it.
func below(host string, hosts []string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return slices.ContainsFunc(hosts, func(h string) bool { return host == h || strings.HasSuffix(host, "."+h) })
}

// host judges a name, before it is resolved.
func (p policy) host(host string) error {
	if below(host, p.denyHosts) || len(p.onlyHosts) > 0 && !below(host, p.onlyHosts) {
		return &Refused{"host " + host}
	}
	return nil
}

// judge returns why an address may not be called, or nil. One within another, however deep, is judged too.
func (p policy) judge(addr netip.Addr) *Refused {
	if addr.Zone() != "" {
		return &Refused{"address " + addr.String() + " (link-local)"}
	}
	whole := addr
	addr = addr.Unmap()
	contains := func(prefix netip.Prefix) bool { return prefix.Contains(addr) }
	if slices.ContainsFunc(p.deny, contains) {
		return &Refused{"address " + whole.String()}
	}
	if slices.ContainsFunc(p.allow, contains) {
		return nil
	}
	for _, s := range special {
		if s.prefix.Contains(addr) {
			return &Refused{"address " + whole.String() + " (" + s.what + ")"}
		}
	}
	for _, e := range embedding {
		if bytes := addr.As16(); addr.Is6() && e.prefix.Contains(addr) {
			inner := netip.AddrFrom4([4]byte(bytes[e.at : e.at+4]))
			if p.judge(inner) != nil {
				return &Refused{"address " + whole.String() + " (" + inner.String() + " in it)"}
			}
		}
	}
	return nil
}

// control is the last look, at the address that is about to be connected to.
func (p policy) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if refused := p.judge(at.Addr()); refused != nil {
		return refused
	}
	return nil
}

// String says what the policy is, for people.
func (p policy) String() string {
	text := "public addresses"
	if len(p.onlyHosts) > 0 {
		text = "only " + strings.Join(p.onlyHosts, ", ")
	}
	list := func(word string, prefixes []netip.Prefix, hosts []string) {
		var names []string
		for _, prefix := range prefixes {
			names = append(names, prefix.String())
		}
		if names = append(names, hosts...); len(names) > 0 {
			text += word + strings.Join(names, ", ")
		}
	}
	list(", and ", p.allow, nil)
	list(", not ", p.deny, p.denyHosts)
	return text
}

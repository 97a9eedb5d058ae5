// Which addresses a job may be posted to. Addresses of the network's own machinery answer with secrets
// to whoever can make a server ask them: the credentials of a cloud's machine, above all.
//
// The operator chooses the URL, and it may be local: loopback and private addresses are fine. What its
// name resolves to is not always the operator's choice.

package handler

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrAddress is matched by the error of a run whose endpoint has an address that is never connected to.
var ErrAddress = errors.New("address refused")

// refuse is called for each address that is dialled, after the name was resolved and before anything is
// sent: a name that resolves to something else the second time does not get past it.
func refuse(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q is no address with a port", ErrAddress, address)
	}
	if why := refusal(target.Addr()); why != "" {
		return fmt.Errorf("%w: %s is %s; jobs are never sent there", ErrAddress, target.Addr(), why)
	}
	return nil
}

// refused are ranges beside the classes that netip knows.
var refused = []struct {
	netip.Prefix
	why string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "of this network only"}, // Linux takes 0.0.0.0 for loopback
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},     // Alibaba Cloud
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},       // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},         // Oracle Cloud
	{netip.MustParsePrefix("fd00:ec2::/32"), metadata},          // AWS: the instance's, a pod's, DNS, time
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},       // Google Cloud
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), metadata}, // Oracle Cloud
	{netip.MustParsePrefix("fd00:42::42/128"), metadata},        // Scaleway
}

const metadata = "a metadata service"

// refusal says why an address is never connected to; empty: it may be.
func refusal(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	switch {
	case ip.IsUnspecified():
		return "unspecified"
	case ip.IsLinkLocalUnicast():
		return "link-local"
	case ip.IsMulticast():
		return "multicast"
	case ip == netip.IPv6Loopback():
		return ""
	}
	for _, r := range refused {
		if r.Contains(ip) {
			return r.why
		}
	}
	for _, v4 := range embedded(ip) {
		if why := refusal(v4); why != "" {
			return why + " (" + v4.String() + " in IPv6)"
		}
	}
	return ""
}

var (
	compatible = netip.MustParsePrefix("::/96")
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // SIIT, RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// thisNetwork is what the bytes of an address look like that were never an IPv4 address.
var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

// embedded are the IPv4 addresses that a gateway may find in an IPv6 address. (One that translates a
// prefix of the operator's own cannot be known here.)
func embedded(ip netip.Addr) (found []netip.Addr) {
	if !ip.Is6() {
		return nil
	}
	b := ip.As16()
	v4 := func(w, x, y, z byte) { found = append(found, netip.AddrFrom4([4]byte{w, x, y, z})) }
	switch {
	case compatible.Contains(ip), translated.Contains(ip), nat64.Contains(ip),
		binary.BigEndian.Uint32(b[8:])&^0x02000000 == 0x5efe: // ISATAP, under any prefix
		v4(b[12], b[13], b[14], b[15])
	case nat64Local.Contains(ip): // whose own prefix may have 96, 64, 56 or 48 bits; byte 8 is skipped (RFC 6052)
		v4(b[12], b[13], b[14], b[15])
		v4(b[9], b[10], b[11], b[12])
		v4(b[7], b[9], b[10], b[11])
		v4(b[6], b[7], b[9], b[10])
		found = slices.DeleteFunc(found, thisNetwork.Contains)
	case sixToFour.Contains(ip):
		v4(b[2], b[3], b[4], b[5])
	case teredo.Contains(ip): // the server, and the client with its bits inverted
		v4(b[4], b[5], b[6], b[7])
		v4(^b[12], ^b[13], ^b[14], ^b[15])
	}
	return found
}

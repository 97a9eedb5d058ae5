package handler

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func FuzzGreeting(f *testing.F) {
	for _, line := range []string{
		`{"ready":true,"protocol":1}`, `{"ready":true,"protocol":2}`, `{"ready":false,"protocol":1}`, `{"ready":true}`, `{"ready":true,"protocol":1} `, `{"ready":true,"protocol":1}x`,
		`{"ready":1,"protocol":1}`, `{"protocol":1e0,"ready":true}`, `{"READY":true,"protocol":1}`, `{"ready":true,"protocol":1,"more":1}`, `null`, ``, "\xff", strings.Repeat("[", 20_000),
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		err := parseGreeting(line)
		if err == nil && (!strings.Contains(string(line), "true") || !strings.Contains(string(line), "1")) {
			t.Errorf("%q: got it taken for a greeting", line)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("got an error of %d bytes, want it bounded: anyone's program may print anything", len(err.Error()))
		}
	})
}

// Whatever form an address is written in, it is refused if what it means is refused.
func FuzzAddress(f *testing.F) {
	for _, host := range append(append([]string{"127.0.0.1:80", "[::1]:80", "", ":", "x:80", "169.254.169.254"}, forbidden...), allowedAddresses...) {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if ip, err := netip.ParseAddr(address); err == nil {
			why := refusal(ip)
			if again := refusal(netip.AddrFrom16(ip.As16())); (again == "") != (why == "") {
				t.Errorf("%s: got refused for %q, and for %q in IPv6", address, why, again)
			}
			if zoned := ip; ip.Is6() && refusal(zoned.WithZone("lo")) != why {
				t.Errorf("%s: got another answer with a zone", address)
			}
			address = netip.AddrPortFrom(ip, 80).String()
		}
		err := refuse(t.Context(), "tcp", address, nil)
		if err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%q: got %v, want ErrAddress", address, err)
		}
		target, parsed := netip.ParseAddrPort(address)
		if parsed != nil && err == nil {
			t.Errorf("%q: got it allowed, want what cannot be read refused", address)
		}
		if parsed == nil && err == nil && (target.Addr().Unmap().IsLinkLocalUnicast() || target.Addr().IsMulticast() || target.Addr().IsUnspecified()) {
			t.Errorf("%q: got it allowed", address)
		}
	})
}

// A URL is taken or refused; neither shows a password, and one that is taken has a host.
func FuzzURL(f *testing.F) {
	for _, u := range []string{
		"http://h/", "https://user:secret-canary@h/p?k=v", "http://h:99999/", "ftp://h/", "http://", "//h", "http://[::1]:80/", "http://[fe80::1%25lo]/", "http://169.254.169.254/",
		"http://h\x00/", "http://h/%zz", "http://a@b@c/", "http://user:pa ss@h/", "http:///x", "http://[::", "HTTP://H/", "http://h#f", "http://user:secret-canary@h:x/",
	} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, given string) {
		h, err := NewHTTP(HTTPOptions{URL: given})
		if err != nil {
			if strings.Contains(given, "secret-canary") && strings.Contains(err.Error(), "secret-canary") && !strings.Contains(hostOf(given), "secret-canary") {
				t.Errorf("%q: got the error %v, which shows a secret", given, err)
			}
			return
		}
		defer func() { _ = h.Close(t.Context()) }()
		if h.url.Hostname() == "" || h.url.Scheme != "http" && h.url.Scheme != "https" {
			t.Errorf("%q: got it taken as %v", given, h.url)
		}
		if ip, err := netip.ParseAddr(h.url.Hostname()); err == nil && refusal(ip) != "" {
			t.Errorf("%q: got it taken, want its address refused", given)
		}
	})
}

func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Host
}

// What is no secret of Standard Webhooks is refused, and not shown.
func FuzzWebhookSecret(f *testing.F) {
	for _, s := range []string{"", "whsec_", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_****", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "short"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		h, err := NewHTTP(HTTPOptions{URL: "http://127.0.0.1:1/", Secrets: []string{secret}})
		if err != nil {
			if len(secret) > 8 && strings.Contains(err.Error(), secret) {
				t.Errorf("got the error %v, which shows the secret", err)
			}
			return
		}
		defer func() { _ = h.Close(t.Context()) }()
		request, err := h.request(t.Context(), newJob(`1`))
		if err != nil || !strings.HasPrefix(request.Header.Get("Webhook-Signature"), "v1,") {
			t.Errorf("%q: got %v and the signature %q, want one", secret, err, request.Header.Get("Webhook-Signature"))
		}
	})
}

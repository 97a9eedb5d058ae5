package handler

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// names is a resolver of names that end in "test.", each by a function of how often it was asked for.
type names struct {
	answers map[string]func(asked int) string
	mu      sync.Mutex
	asked   map[string]int
	servers sync.WaitGroup
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		n.servers.Go(func() { n.serve(ours) })
		return theirs, nil
	}}
}

// serve answers the questions of one connection, in the format of DNS over a stream (RFC 1035, 4).
func (n *names) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		reply := n.reply(query)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func (n *names) reply(query []byte) []byte {
	var name strings.Builder
	i := 12
	for query[i] != 0 {
		name.Write(query[i+1 : i+1+int(query[i])])
		name.WriteByte('.')
		i += 1 + int(query[i])
	}
	question := query[12 : i+5]
	kind := binary.BigEndian.Uint16(query[i+1:])
	var data []byte
	code := byte(3) // no such name
	if answer := n.answers[name.String()]; answer != nil {
		code = 0
		n.mu.Lock()
		asked := n.asked[name.String()]
		ip := netip.MustParseAddr(answer(asked))
		if ip.Is4() == (kind == 1) && (kind == 1 || kind == 28) {
			data = ip.AsSlice()
			n.asked[name.String()]++
		}
		n.mu.Unlock()
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
	if data != nil {
		reply[7] = 1
		reply = append(reply, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(data)))
		reply = append(reply, data...)
	}
	return reply
}

// watch makes the handler's names resolve here, and counts the connections that it is allowed to open.
func watch(t *testing.T, h *HTTP, answers map[string]func(asked int) string) (allowed *atomic.Int64) {
	n := &names{answers: answers, asked: map[string]int{}}
	t.Cleanup(n.servers.Wait)
	h.dialer.Resolver = n.resolver()
	allowed = &atomic.Int64{}
	h.dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		err := refuse(ctx, network, address, c)
		if err == nil {
			allowed.Add(1)
		}
		return err
	}
	return allowed
}

func always(ip string) func(int) string { return func(int) string { return ip } }

// forbidden are hosts of URLs that are never connected to.
var forbidden = []string{
	// link-local, where clouds have their metadata services
	"169.254.169.254", "169.254.169.253", "169.254.170.2", "169.254.0.1", "169.254.255.255", "169.254.42.42",
	"[fe80::1]", "[fe80::a9fe:a9fe]", "[fe80::1%25lo]", "[febf::ffff]", "[fe80::1%25169.254.169.254]",
	// and where they have them elsewhere
	"100.100.100.200", "168.63.129.16", "192.0.0.192", "[fd00:ec2::254]", "[fd00:ec2::23]", "[fd20:ce::254]",
	"[fd00:c1::a9fe:a9fe]", "[fd00:42::42]",
	// what is no host
	"0.0.0.0", "0.1.2.3", "[::]", "255.255.255.255",
	"224.0.0.1", "239.255.255.250", "[ff02::1]", "[ff05::2]", "[ff0e::1]",
	// the same in IPv6
	"[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::ffff:100.100.100.200]", "[::ffff:0.0.0.0]", "[::ffff:224.0.0.1]",
	"[::169.254.169.254]", "[::ffff:0:169.254.169.254]",
	"[64:ff9b::169.254.169.254]", "[64:ff9b::6464:64c8]", "[64:ff9b::224.0.0.1]",
	"[64:ff9b:1::169.254.169.254]", "[64:ff9b:1:a9fe:a9:fe00::]", "[64:ff9b:1:a9:00fe:a9fe::]", "[64:ff9b:1:0:a9:fea9:fe00:0]",
	"[2002:a9fe:a9fe::1]", "[2002:6464:64c8::]", "[2001:0:a9fe:a9fe::1]", "[2001::5601:5601]",
	"[2001:db8::5efe:169.254.169.254]", "[2001:db8::200:5efe:169.254.169.254]",
}

// allowedAddresses are those of operators' networks, and everybody's.
var allowedAddresses = []string{
	"127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.201",
	"fd12:3456::1", "fc00::1", "8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "64:ff9b:1::192.168.0.1", "64:ff9b:1:a00:0:100::",
	"2002:808:808::1", "::ffff:0:10.0.0.1", "2001:db8::5efe:10.0.0.1", "169.253.255.255", "169.255.0.0", "fec0::1",
}

func TestNoConnectionIsMadeToAForbiddenAddress(t *testing.T) {
	noLeaks(t)
	for _, host := range forbidden {
		for _, scheme := range []string{"http", "https"} {
			t.Run(scheme+" "+host, func(t *testing.T) {
				// Named in the URL it is refused at once ...
				if h, err := NewHTTP(HTTPOptions{URL: scheme + "://" + host + "/"}); !errors.Is(err, ErrAddress) {
					t.Errorf("got %v, %v; want ErrAddress", h, err)
				}
				// ... and when it is what a name resolves to, when it is dialled.
				h, err := NewHTTP(HTTPOptions{URL: scheme + "://evil.test.:1/"})
				h = closing(t, h, err)
				name, _ := url.PathUnescape(strings.Trim(host, "[]"))
				ip := netip.MustParseAddr(name).WithZone("")
				allowed := watch(t, h, map[string]func(int) string{"evil.test.": always(ip.String())})
				if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) {
					t.Errorf("got %v, want ErrAddress", err)
				}
				h.url.Host = host + ":1" // as it is, with its zone
				if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) {
					t.Errorf("got %v, want ErrAddress", err)
				}
				if n := allowed.Load(); n != 0 {
					t.Errorf("got %d connections, want none", n)
				}
			})
		}
	}
}

// Resolvers of the C library read numbers of all sorts as addresses. What they make of them is checked
// when it is dialled; Go's own finds no such name.
func TestAddressInAnUnusualSpellingGetsNoConnection(t *testing.T) {
	noLeaks(t)
	for _, host := range []string{
		"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe", "169.254.43518", "169.16689662", "0", "00.00.00.00",
	} {
		t.Run(host, func(t *testing.T) {
			for name, resolver := range map[string]func(h *HTTP){"Go": func(*HTTP) {}, "C": func(h *HTTP) { h.dialer.Resolver = nil }} {
				h, err := NewHTTP(HTTPOptions{URL: "http://" + host + ":1/"})
				h = closing(t, h, err)
				allowed := watch(t, h, nil)
				resolver(h)
				ctx := t.Context()
				if name == "C" { // it may ask the network
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					cancel()
				}
				if err := h.Handle(ctx, newJob(`1`)); err == nil || allowed.Load() != 0 {
					t.Errorf("%s: got %v, %d connections; want an error and none", name, err, allowed.Load())
				}
			}
		})
	}
}

func TestOperatorsOwnNetworkIsAllowed(t *testing.T) {
	for _, address := range allowedAddresses {
		if why := refusal(netip.MustParseAddr(address)); why != "" {
			t.Errorf("%s: got refused as %s, want allowed", address, why)
		}
	}
}

func TestForbiddenIPv4AddressIsForbiddenInEveryIPv6Form(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v4 := [4]byte{169, 254, rapid.Byte().Draw(t, "y"), rapid.Byte().Draw(t, "z")}
		hex := fmt.Sprintf("%02x%02x:%02x%02x", v4[0], v4[1], v4[2], v4[3])
		form := rapid.SampledFrom([]string{"::ffff:%s", "::%s", "64:ff9b::%s", "64:ff9b:1::%s", "2002:%s::1", "2001:0:%s::1", "::ffff:0:%s"}).Draw(t, "form")
		if ip := netip.MustParseAddr(fmt.Sprintf(form, hex)); refusal(ip) == "" {
			t.Errorf("got %s allowed, want refused", ip)
		}
	})
}

func TestNameThatResolvesToAnotherAddressTheSecondTimeIsRefused(t *testing.T) {
	noLeaks(t)
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		w.Header().Set("Connection", "close")
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	h, err := NewHTTP(HTTPOptions{URL: "http://rebound.test.:" + port})
	h = closing(t, h, err)
	allowed := watch(t, h, map[string]func(int) string{"rebound.test.": func(asked int) string {
		if asked == 0 {
			return "127.0.0.1"
		}
		return "169.254.169.254"
	}})
	if err := h.Handle(t.Context(), newJob(`1`)); err != nil {
		t.Errorf("got %v for the first, want nil", err)
	}
	if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) {
		t.Errorf("got %v for the second, want ErrAddress", err)
	}
	if served.Load() != 1 || allowed.Load() != 1 {
		t.Errorf("got %d requests, %d connections; want one", served.Load(), allowed.Load())
	}
}

func TestRedirectIsAFailureAndNotFollowed(t *testing.T) {
	noLeaks(t)
	var followed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, target := range []string{elsewhere.URL, "/same-host", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "//0.0.0.0/", "file:///etc/passwd", "%zz"} {
		for _, code := range []int{300, 301, 302, 303, 304, 305, 307, 308} {
			var served atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				served.Add(1)
				w.Header().Set("Location", target)
				w.WriteHeader(code)
			}))
			h, err := NewHTTP(HTTPOptions{URL: server.URL})
			h = closing(t, h, err)
			allowed := watch(t, h, nil)
			err = h.Handle(t.Context(), newJob(`1`))
			if kindOf(err) != "retry" || !strings.Contains(err.Error(), fmt.Sprint(code)) || !strings.Contains(err.Error(), "redirects are not followed") {
				t.Errorf("%d to %s: got %v, want a failure that says so", code, target, err)
			}
			if served.Load() != 1 || allowed.Load() != 1 || followed.Load() != 0 {
				t.Errorf("%d to %s: got %d requests, %d connections, %d followed; want 1, 1, 0", code, target, served.Load(), allowed.Load(), followed.Load())
			}
			server.Close()
		}
	}
}

package handler

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// counted is a listener that counts who has connected: what the dialer says it has not done, it shows.
func counted(t *testing.T, network, address string) (port string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	connections = &atomic.Int64{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port, connections
}

// Linux takes the unspecified address for loopback: there is a listener that would be reached.
func TestAListenerOnLoopbackIsNotReachedByTheUnspecifiedAddress(t *testing.T) {
	noLeaks(t)
	port, connections := counted(t, "tcp", ":0")
	reached, err := net.Dial("tcp", "0.0.0.0:"+port)
	if err != nil {
		t.Skipf("it would not be reached here: %v", err)
	}
	reached.Close()
	eventually(t, "that is counted", func() bool { return connections.Load() == 1 })
	for _, host := range []string{"0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "[::0:0]", "[0:0:0:0:0:0:0:0]", "[::ffff:0:0]", "0.0.0.1", "[::ffff:0.0.0.1]"} {
		if _, err := NewHTTP(HTTPOptions{URL: "http://" + host + ":" + port}); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: got %v, want ErrAddress", host, err)
		}
		h, err := NewHTTP(HTTPOptions{URL: "http://evil.test.:" + port})
		h = closing(t, h, err)
		allowed := watch(t, h, map[string]func(int) string{"evil.test.": func(int) string { return strings.Trim(host, "[]") }})
		if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) {
			t.Errorf("a name for %s: got %v, want ErrAddress", host, err)
		}
		h.url.Host = host + ":" + port
		if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) || allowed.Load() != 0 {
			t.Errorf("%s: got %v and %d connections allowed, want ErrAddress and none", host, err, allowed.Load())
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("got %d connections, want that of the test alone", n)
	}
}

// Every forbidden target, as the place that an endpoint redirects to, and as what its name becomes while it is being used.
func TestNeitherARedirectNorARebindingLeadsToAForbiddenTarget(t *testing.T) {
	noLeaks(t)
	for _, host := range forbidden {
		var served atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			served.Add(1)
			w.Header().Set("Connection", "close")
			w.Header().Set("Location", "http://"+host+"/latest/meta-data/")
			w.WriteHeader([]int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}[served.Load()%3])
		}))
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		h, err := NewHTTP(HTTPOptions{URL: "http://rebound.test.:" + port})
		h = closing(t, h, err)
		ip, _ := url.PathUnescape(strings.Trim(host, "[]"))
		ip, _, _ = strings.Cut(ip, "%")
		allowed := watch(t, h, map[string]func(int) string{"rebound.test.": func(asked int) string {
			if asked == 0 {
				return "127.0.0.1"
			}
			return ip
		}})
		if err := h.Handle(t.Context(), newJob(`1`)); err == nil || !strings.Contains(err.Error(), "redirects are not followed") {
			t.Errorf("%s: got %v for a redirect, want that it is not followed", host, err)
		}
		if err := h.Handle(t.Context(), newJob(`1`)); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: got %v once the name is its own, want ErrAddress", host, err)
		}
		if served.Load() != 1 || allowed.Load() != 1 {
			t.Errorf("%s: got %d requests and %d connections, want the first one of each", host, served.Load(), allowed.Load())
		}
		server.Close()
	}
	if len(forbidden) < 40 {
		t.Errorf("got %d targets, want 40 and more", len(forbidden))
	}
}

package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyWhatIsAskedForIsServed(t *testing.T) {
	said := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text+" "+r.URL.Path) })
	}
	none, all := Routes{}, Routes{Health: NewHealth(newLoop(), &database{}, discard), Metrics: said("metrics"), API: said("api"), PProf: true}
	tests := []struct {
		routes       Routes
		method, path string
		status       int
		body         string
	}{
		{none, "GET", "/livez", 404, ""},
		{none, "GET", "/readyz", 404, ""},
		{none, "GET", "/metrics", 404, ""},
		{none, "GET", "/api/jobs", 404, ""},
		{none, "GET", "/debug/pprof/", 404, ""},
		{none, "GET", "/", 404, ""},
		{all, "GET", "/livez", 200, "ok"},
		{all, "HEAD", "/livez", 200, ""},
		{all, "POST", "/livez", 405, ""},
		{all, "GET", "/readyz", 200, `"ready": true`},
		{all, "DELETE", "/readyz", 405, ""},
		{all, "GET", "/metrics", 200, "metrics"},
		{all, "POST", "/metrics", 405, ""},
		{all, "GET", "/api/jobs/7", 200, "api /api/jobs/7"},
		{all, "POST", "/api/jobs", 200, "api /api/jobs"},
		{all, "GET", "/debug/pprof/", 200, "goroutine"},
		{all, "GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{all, "GET", "/debug/pprof/cmdline", 404, ""},
		{all, "POST", "/debug/pprof/symbol", 405, ""},
		{all, "GET", "/", 404, ""},
		{all, "GET", "/.git/config", 404, ""},
	}
	for _, test := range tests {
		response := httptest.NewRecorder()
		test.routes.Handler().ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), test.method, test.path, http.NoBody))
		if response.Code != test.status || !strings.Contains(response.Body.String(), test.body) {
			t.Errorf("%s %s: got %d %.100q, want %d %q", test.method, test.path, response.Code, response.Body, test.status, test.body)
		}
		if response.Header().Get("Cache-Control") != "no-store" || response.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: got the headers %v, want no caching and no sniffing", test.method, test.path, response.Header())
		}
	}
}

// pipes is a network of its own, whose time is that of the test.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.connections <- theirs
	return ours
}

// serve runs a listener over pipes until the function that it returns is called.
func serve(t *testing.T, handler http.Handler) (*pipes, func() error) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0", handler, discard)
	if err != nil {
		t.Fatal(err)
	}
	l.listener.Close()
	network := newPipes()
	l.listener = network
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return network, func() error {
		cancel()
		return <-done
	}
}

func TestWhoIsSlowToAskIsCutOff(t *testing.T) {
	tests := map[string]struct {
		sent  string
		limit time.Duration
	}{
		"nothing is asked":       {"", headerTime},
		"the head does not end":  {"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ", headerTime},
		"the body does not come": {"POST /api/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", readTime},
		"nothing more is asked":  {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", idleTime},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) })
				network, stop := serve(t, Routes{Health: NewHealth(newLoop(), &database{}, discard), API: api}.Handler())
				connection := network.dial()
				start := time.Now()
				go func() { _, _ = io.WriteString(connection, test.sent) }()
				if _, err := io.Copy(io.Discard, connection); err != nil {
					t.Errorf("got %v, want the end of the connection", err)
				}
				if took := time.Since(start); took > test.limit+time.Second {
					t.Errorf("got the end after %v, want it after %v", took, test.limit)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAHeadThatIsTooLargeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, stop := serve(t, Routes{}.Handler())
		connection := network.dial()
		go func() {
			_, _ = io.WriteString(connection, "GET / HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", 2*maxHeader)+"\r\n\r\n")
		}()
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %s, want 431", response.Status)
		}
		connection.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestTheListenerEndsInTime(t *testing.T) {
	for name, takes := range map[string]time.Duration{"a request that ends": time.Second, "one that does not": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := make(chan struct{})
				network, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					close(begun)
					timer := time.NewTimer(takes)
					defer timer.Stop()
					select {
					case <-timer.C:
					case <-r.Context().Done():
					}
				}))
				connection := network.dial()
				answered := make(chan bool, 1)
				go func() {
					_, _ = io.WriteString(connection, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
					text, _ := io.ReadAll(connection)
					answered <- strings.HasPrefix(string(text), "HTTP/1.1 200")
				}()
				<-begun
				start := time.Now()
				if err := stop(); err != nil {
					t.Errorf("got %v, want an end in order", err)
				}
				if took := time.Since(start); took > closeTime+time.Second {
					t.Errorf("got the end after %v, want it within %v", took, closeTime)
				}
				if got, want := <-answered, takes < closeTime; got != want {
					t.Errorf("got an answer: %v, want one: %v", got, want)
				}
			})
		})
	}
}

func TestAnAddressThatIsTakenIsAnErrorThatNamesTheSetting(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), discard)
	if err != nil {
		t.Fatal(err)
	}
	defer l.listener.Close()
	if _, err := Listen(t.Context(), l.Addr().String(), http.NotFoundHandler(), discard); err == nil || !strings.Contains(err.Error(), "http.address") {
		t.Errorf("got %v, want an error that names http.address", err)
	}
}

func TestAskTellsWhatTheDaemonAnswers(t *testing.T) {
	h := NewHealth(newLoop(), &database{}, discard)
	l, err := Listen(t.Context(), "127.0.0.1:0", Routes{Health: h}.Handler(), discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, address := range []string{l.Addr().String(), "0.0.0.0:" + port, ":" + port, "[::]:" + port} {
		if err := Ask(ctx, address, "/readyz"); err != nil {
			t.Errorf("%s: got %v, want it ready", address, err)
		}
	}
	h.Drain()
	if err := Ask(ctx, l.Addr().String(), "/readyz"); err == nil || !strings.Contains(err.Error(), `"draining": true`) {
		t.Errorf("got %v, want the answer in the error", err)
	}
	if err := Ask(ctx, l.Addr().String(), "/livez"); err != nil {
		t.Errorf("got %v, want it alive", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Ask(t.Context(), l.Addr().String(), "/livez"); err == nil {
		t.Error("got an answer from no daemon, want an error")
	}
	if err := Ask(t.Context(), "9464", "/livez"); err == nil || !strings.Contains(err.Error(), "http.address") {
		t.Errorf("got %v, want an error about the address", err)
	}
}

func TestAListenerThatBreaksIsAnError(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), discard)
	if err != nil {
		t.Fatal(err)
	}
	l.listener.Close()
	if err := l.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want the listener's error", err)
	}
}

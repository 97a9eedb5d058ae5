// A TCP proxy that can stop forwarding without closing anything, as a frozen pooler, a firewall that
// forgot the connection, or an unplugged host do.

package notify_test

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

type proxy struct {
	listener net.Listener
	upstream string
	// toServer, if set, sees what a client sent before it is forwarded. Set it before connecting.
	toServer func(data []byte)
	// toClient, if set, sees what the server sent after it was forwarded. Set it before connecting.
	toClient func(data []byte)

	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	stalled bool // new links are frozen from the start
	links   []*link
}

// link is one client's connection through the proxy.
type link struct {
	client, server net.Conn
	frozen         atomic.Bool
}

// newProxy returns a proxy in front of the server of dsn, and the URL of the same database through it.
func newProxy(t *testing.T, dsn string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, upstream: u.Host}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	u.Host = l.Addr().String()
	return p, u.String()
}

// freeze makes every present connection swallow what it gets, in both directions. New ones work.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		l.frozen.Store(true)
	}
}

// stall freezes the present connections and every new one, which is accepted all the same.
func (p *proxy) stall() {
	p.mu.Lock()
	p.stalled = true
	p.mu.Unlock()
	p.freeze()
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, l := range p.links {
		l.client.Close()
		l.server.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.upstream)
		if err != nil {
			client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		if p.closed {
			client.Close()
			server.Close()
		}
		l.frozen.Store(p.stalled)
		p.links = append(p.links, l)
		p.mu.Unlock()
		p.running.Go(func() {
			l.forward(server, client, func(data []byte) {
				if p.toServer != nil {
					p.toServer(data)
				}
			}, nil)
		})
		p.running.Go(func() {
			l.forward(client, server, nil, func(data []byte) {
				if p.toClient != nil {
					p.toClient(data)
				}
			})
		})
	}
}

// forward closes both ends when one has ended, unless the link is frozen: then nobody learns of it.
func (l *link) forward(to, from net.Conn, before, after func([]byte)) {
	defer func() {
		if !l.frozen.Load() {
			l.client.Close()
			l.server.Close()
		}
	}()
	buf := make([]byte, 64*1024)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if before != nil {
			before(buf[:n])
		}
		if l.frozen.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		if after != nil {
			after(buf[:n])
		}
	}
}

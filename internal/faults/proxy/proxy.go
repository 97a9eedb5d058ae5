// Package proxy is a TCP proxy in front of a PostgreSQL server that breaks connections in the ways in which
// networks, poolers and vanished hosts do. It follows the protocol closely enough to break them at a given moment:
// within a message, or when a commit is done and the client has not been told.
//
// What goes on for a while is a [Condition]. What strikes a connection once is [Proxy.Reset], [Proxy.HalfOpen] and, at a
// moment of its conversation, [Proxy.Arm]. Each is for the connections that a [Match] chooses.
//
// It speaks no TLS: a client that asks is told that there is none.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
)

// Options of New. The zero value works.
type Options struct {
	// Roles tell connections of one application apart: a connection has the first role of which it has run a statement.
	Roles []Role
}

// Role is the name of connections that run a statement with a text in it.
type Role struct{ Name, Says string }

// Client is what is known of a connection.
type Client struct {
	Application, User, Database string // from its startup message
	Role                        string // empty until it has run a statement that tells
	PID                         uint32 // of its server process; 0 until it is logged in
}

// Match chooses connections. It must be quick and not call the proxy. Nil chooses all.
type Match func(Client) bool

func (m Match) chooses(c Client) bool { return m == nil || m(c) }

// And chooses what both choose.
func (m Match) And(other Match) Match {
	return func(c Client) bool { return m.chooses(c) && other.chooses(c) }
}

// Application chooses the connections whose application_name begins with prefix.
func Application(prefix string) Match {
	return func(c Client) bool { return strings.HasPrefix(c.Application, prefix) }
}

// InRole chooses the connections that have a role.
func InRole(role string) Match { return func(c Client) bool { return c.Role == role } }

// Proxy forwards connections to a server. Its methods may be called from any goroutine.
type Proxy struct {
	roles    []Role
	listener net.Listener
	running  sync.WaitGroup // accept, and two goroutines for each connection

	mu         sync.Mutex
	target     string
	closed     bool
	links      map[*link]bool
	conditions []*Condition
	armed      []*Armed // cuts that no statement was chosen for
}

// New returns a proxy in front of the server at target ("127.0.0.1:5432"), on a port of 127.0.0.1. Close it in the end.
func New(target string, o Options) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{roles: o.Roles, listener: listener, target: target, links: map[*link]bool{}}
	p.running.Go(p.accept)
	return p, nil
}

// Addr is where clients connect to, as "127.0.0.1:40000".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL is the address, through the proxy, of the database that another address names.
func (p *Proxy) URL(database string) (string, error) {
	u, err := url.Parse(database)
	if err != nil { // its text would repeat the address, which may hold a password
		return "", errors.New("proxy: the address of the database is no URL")
	}
	u.Host = p.Addr()
	return u.String(), nil
}

// Retarget makes later connections go to another server, as when a virtual address moves.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Clients are the connections whose startup message has come and which have not ended, in no order.
func (p *Proxy) Clients() []Client {
	var clients []Client
	for _, l := range p.chosen(nil) {
		clients = append(clients, p.client(l))
	}
	return clients
}

// Reset breaks connections by RST in both directions, and returns how many.
func (p *Proxy) Reset(m Match) int {
	chosen := p.chosen(m)
	for _, l := range chosen {
		l.reset()
	}
	return len(chosen)
}

// HalfOpen closes connections on the server's side and does not tell the clients: what they send goes nowhere, and
// nothing comes. It returns how many.
func (p *Proxy) HalfOpen(m Match) int {
	chosen := p.chosen(m)
	for _, l := range chosen {
		l.forsake()
	}
	return len(chosen)
}

// Close breaks all connections and returns when nothing of the proxy runs any more. A second Close does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	if closed {
		return nil
	}
	err := p.listener.Close()
	p.running.Wait()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the client was quicker to leave
			continue
		}
		l := newLink(p, client.(*net.TCPConn))
		p.mu.Lock()
		p.links[l] = true
		p.affect(l)
		if p.closed {
			l.reset()
		}
		p.mu.Unlock()
		p.running.Go(func() {
			l.serve()
			l.reset()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// chosen are the connections of known clients that m chooses.
func (p *Proxy) chosen(m Match) (links []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.known && m.chooses(l.who) {
			links = append(links, l)
		}
	}
	return links
}

// introduce takes note of what becomes known of a connection's client.
func (p *Proxy) introduce(l *link, change func(*Client)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&l.who)
	l.known = true
	p.affect(l)
}

func (p *Proxy) client(l *link) Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.who
}

// owner is the client of the session with that process id.
func (p *Proxy) owner(pid uint32) Client {
	owners := p.chosen(func(c Client) bool { return c.PID == pid })
	if len(owners) == 0 {
		return Client{}
	}
	return p.client(owners[0])
}

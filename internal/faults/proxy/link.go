// One connection: read message by message in both directions, passed on, held back or broken.

package proxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// burst is how much is passed on at once, in bytes.
const burst = 64 << 10

type link struct {
	proxy  *Proxy
	client *net.TCPConn
	server atomic.Pointer[net.TCPConn] // nil until it is dialled

	broken   sync.Once
	done     chan struct{}          // closed when it is broken
	effect   atomic.Pointer[effect] // stored with proxy.mu held
	forsaken atomic.Bool            // the server's side is closed, and the client is not to know

	known bool   // under proxy.mu: the startup message has come
	who   Client // under proxy.mu

	mu   sync.Mutex
	talk *conversation // under mu
	role bool          // under mu: it has one
}

func newLink(p *Proxy, client *net.TCPConn) *link {
	return &link{proxy: p, client: client, done: make(chan struct{}), talk: newConversation()}
}

// serve runs the connection to its end.
func (l *link) serve() {
	first, err := l.greet()
	if err != nil {
		return
	}
	who := Client{Application: first.parameters["application_name"], User: first.parameters["user"], Database: first.parameters["database"]}
	if first.code == codeCancel { // it shares the fate of the session that it is about
		who = l.proxy.owner(first.pid)
		who.PID = 0
	}
	l.proxy.introduce(l, func(c *Client) { *c = who })
	if !l.await(Requests) {
		return
	}
	server, err := l.dial()
	if err != nil {
		return
	}
	if _, err := server.Write(first.raw); err != nil {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(Replies, server, l.client, l.hear) })
	l.pump(Requests, l.client, server, l.ask)
	pumps.Wait()
	for _, u := range append(l.talk.pending, l.talk.open) {
		l.proxy.rearm(u)
	}
}

// greet reads the first packet, after those that ask for encryption.
func (l *link) greet() (startup, error) {
	for {
		first, err := readStartup(l.client)
		if err != nil || first.code != codeTLS && first.code != codeGSS {
			return first, err
		}
		if _, err := l.client.Write([]byte{'N'}); err != nil {
			return first, err
		}
	}
}

func (l *link) dial() (*net.TCPConn, error) {
	l.proxy.mu.Lock()
	target := l.proxy.target
	l.proxy.mu.Unlock()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return nil, err
	}
	server := conn.(*net.TCPConn)
	l.server.Store(server)
	select {
	case <-l.done: // it was broken meanwhile
		l.reset()
		return nil, net.ErrClosed
	default:
		return server, nil
	}
}

// reset breaks both sides by RST.
func (l *link) reset() {
	l.broken.Do(func() { close(l.done) })
	for _, conn := range []*net.TCPConn{l.client, l.server.Load()} {
		if conn != nil {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
	}
}

// forsake closes the server's side only.
func (l *link) forsake() {
	l.forsaken.Store(true)
	if server := l.server.Load(); server != nil {
		_ = server.Close()
	}
}

// pump passes on what goes one way, until that ends. look takes note of the message that begins at start of out, and
// returns what is to be passed on; cut tells to break the connection after that.
func (l *link) pump(way Direction, from, to *net.TCPConn, look func(out []byte, start int) (passed []byte, cut bool)) {
	in := bufio.NewReaderSize(from, burst)
	var out []byte
	for {
		start, cut := len(out), false
		var err error
		if out, err = appendMessage(out, in); err == nil {
			out, cut = look(out, start)
		}
		if err == nil && !cut && in.Buffered() > 0 && len(out) < burst {
			continue
		}
		if l.forsaken.Load() {
			if err != nil {
				return
			}
			out = out[:0]
			continue
		}
		if !l.await(way) {
			return
		}
		if writeErr := l.write(to, out); writeErr != nil && !l.forsaken.Load() || cut {
			l.reset()
			return
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			_ = to.CloseWrite()
			return
		case err != nil && l.forsaken.Load():
			return
		case err != nil:
			l.reset()
			return
		}
		out = out[:0]
	}
}

// write writes as slowly as it has to be.
func (l *link) write(to io.Writer, out []byte) error {
	e := l.effect.Load()
	if d := e.latency(); d > 0 && len(out) > 0 {
		l.pause(d, e)
	}
	for e.drip > 0 && len(out) > 0 {
		if _, err := to.Write(out[:1]); err != nil {
			return err
		}
		out = out[1:]
		if !l.pause(e.drip, e) {
			break
		}
	}
	_, err := to.Write(out)
	return err
}

// ask looks at a message to the server.
func (l *link) ask(out []byte, start int) ([]byte, bool) {
	message := out[start:]
	l.mu.Lock()
	defer l.mu.Unlock()
	sql, runs, last := l.talk.ask(message)
	u := l.talk.open
	if runs {
		l.assume(sql)
		if u.cut == nil {
			u.cut, u.sql = l.proxy.choose(l, sql), sql
		}
	}
	if !last {
		return out, false
	}
	l.talk.sent()
	if u.cut == nil || u.cut.cut.At != InRequest {
		return out, false
	}
	struck := l.proxy.strike(l, u)
	if struck {
		out = out[:start+len(message)/2]
	}
	return out, struck
}

// assume takes a role by what the client says.
func (l *link) assume(sql string) {
	if l.role {
		return
	}
	for _, r := range l.proxy.roles {
		if strings.Contains(sql, r.Says) {
			l.role = true
			l.proxy.introduce(l, func(c *Client) { c.Role = r.Name })
			return
		}
	}
}

// hear looks at a message to the client.
func (l *link) hear(out []byte, start int) ([]byte, bool) {
	message := out[start:]
	l.mu.Lock()
	defer l.mu.Unlock()
	u, last, committed := l.talk.hear(message)
	switch {
	case message[0] == keyMessage && len(message) >= headerSize+4:
		pid := binary.BigEndian.Uint32(message[headerSize:])
		l.proxy.introduce(l, func(c *Client) { c.PID = pid })
	case message[0] == notificationMessage && l.effect.Load().deaf:
		return out[:start], false
	}
	if u.cut == nil {
		return out, false
	}
	switch u.cut.cut.At {
	case InReply:
		u.passed++
		if u.passed <= u.cut.cut.Skip && !last {
			return out, false
		}
		if l.proxy.strike(l, u) {
			return out[:start+len(message)/2], true
		}
	case AfterCommit:
		u.held = append(u.held, message...)
		out = out[:start]
		if !last {
			return out, false
		}
		if committed && l.proxy.strike(l, u) {
			return out, true
		}
		l.proxy.rearm(u)
		out = append(out, u.held...)
	}
	return out, false
}

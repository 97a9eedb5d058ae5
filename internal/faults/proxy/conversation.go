// What a client asks for and what the server answers, unit by unit: enough to know when something has committed.

package proxy

import "bytes"

// Kinds of messages from the client.
const (
	queryMessage    = 'Q'
	parseMessage    = 'P'
	bindMessage     = 'B'
	executeMessage  = 'E'
	closeMessage    = 'C'
	syncMessage     = 'S'
	functionMessage = 'F'
)

// Kinds of messages from the server.
const (
	notificationMessage = 'A'
	completeMessage     = 'C'
	errorMessage        = 'E'
	keyMessage          = 'K'
	readyMessage        = 'Z'
)

// idle is the state in a readyMessage of a session that is in no transaction.
const idle = 'I'

// unit is what a client sends before it waits for the server to be ready again, and what came of it. What it runs
// outside of a transaction commits with it.
type unit struct {
	failed bool
	cut    *Armed // that was chosen for it
	sql    string // the statement that it was chosen for
	passed int    // messages of the answer that the cut has let pass
	held   []byte // the answer, kept back until it is known whether to cut
}

// conversation follows a connection. It has no lock of its own.
type conversation struct {
	prepared map[string]string // texts of prepared statements, by name
	portals  map[string]string // texts of statements with their parameters
	open     *unit             // not yet complete
	pending  []*unit           // complete, not yet answered; the first of all is the log-in
}

func newConversation() *conversation {
	return &conversation{prepared: map[string]string{}, portals: map[string]string{}, open: &unit{}, pending: []*unit{{}}}
}

// ask takes note of a message to the server. It returns the statement that the message runs, if it runs one, and
// whether it is the last of the open unit; then sent has to be called.
func (c *conversation) ask(message []byte) (sql string, runs, last bool) {
	body := message[headerSize:]
	switch message[0] {
	case queryMessage:
		statement, _ := text(body)
		return string(statement), true, true
	case parseMessage:
		name, rest := text(body)
		statement, _ := text(rest)
		c.prepared[string(name)] = string(statement)
	case bindMessage:
		portal, rest := text(body)
		name, _ := text(rest)
		c.portals[string(portal)] = c.prepared[string(name)]
	case executeMessage:
		portal, _ := text(body)
		return c.portals[string(portal)], true, false
	case closeMessage:
		if len(body) == 0 {
			break
		}
		name, _ := text(body[1:])
		if body[0] == 'S' {
			delete(c.prepared, string(name))
		} else {
			delete(c.portals, string(name))
		}
	case syncMessage, functionMessage:
		return "", false, true
	}
	return "", false, false
}

// sent completes the open unit.
func (c *conversation) sent() {
	c.pending, c.open = append(c.pending, c.open), &unit{}
}

// hear takes note of a message from the server. It returns the unit that it is about, whether it is the unit's last,
// and if so whether all of the unit was done, and committed where there was something to commit.
func (c *conversation) hear(message []byte) (u *unit, last, committed bool) {
	u = c.open
	if len(c.pending) > 0 {
		u = c.pending[0]
	}
	body := message[headerSize:]
	switch message[0] {
	case errorMessage:
		u.failed = true
	case completeMessage:
		if bytes.HasPrefix(body, []byte("ROLLBACK")) { // the answer to a commit that cannot be, too
			u.failed = true
		}
	case readyMessage:
		if len(c.pending) > 0 {
			c.pending = c.pending[1:]
		}
		return u, true, !u.failed && len(body) > 0 && body[0] == idle
	}
	return u, false, false
}

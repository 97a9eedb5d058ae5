// Cuts: a connection broken at a given moment of its conversation.

package proxy

import "slices"

// Point is a moment at which a connection is cut.
type Point int

// The points, of the unit of statements that Cut.Says chooses: all that a client sends before it waits.
const (
	// InRequest is within the message that completes the unit: what the server may have run of it is rolled back.
	InRequest Point = iota
	// InReply is within a message of the answer: whether it was done is anyone's guess.
	InReply
	// AfterCommit is when all of it is done, and committed, and the client has heard nothing of that. A unit that fails, or
	// leaves a transaction open, is passed on as if nothing were to happen.
	AfterCommit
)

// Cut is a break of one connection, by RST in both directions, at a given moment.
type Cut struct {
	On   Match
	At   Point
	Says func(sql string) bool // which statements; nil: any
	Skip int                   // for InReply: so many messages of the answer are passed on, or all but the last
}

// Struck tells what was cut.
type Struck struct {
	Client Client
	SQL    string // the statement that was chosen
}

// Armed is a cut that waits for its moment, and strikes once.
type Armed struct {
	cut      Cut
	proxy    *Proxy
	struck   chan Struck
	disarmed bool // under proxy.mu; true also once it has struck
}

// Arm makes a cut happen the next time that it can.
func (p *Proxy) Arm(c Cut) *Armed {
	a := &Armed{cut: c, proxy: p, struck: make(chan Struck, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = append(p.armed, a)
	return a
}

// Struck receives once, when it has happened.
func (a *Armed) Struck() <-chan Struck { return a.struck }

// Disarm makes sure that it does not happen any more.
func (a *Armed) Disarm() {
	a.proxy.mu.Lock()
	defer a.proxy.mu.Unlock()
	a.disarmed = true
	a.proxy.armed = slices.DeleteFunc(a.proxy.armed, func(other *Armed) bool { return other == a })
}

// choose takes the armed cut that is for this statement, if there is one. It is in one unit at a time.
func (p *Proxy) choose(l *link, sql string) *Armed {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.armed, func(a *Armed) bool {
		return a.cut.On.chooses(l.who) && (a.cut.Says == nil || a.cut.Says(sql))
	})
	if i < 0 {
		return nil
	}
	a := p.armed[i]
	p.armed = slices.Delete(p.armed, i, i+1)
	return a
}

// rearm lets the cut of a unit that it does not strike be chosen again.
func (p *Proxy) rearm(u *unit) {
	if u.cut == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !u.cut.disarmed {
		p.armed = append(p.armed, u.cut)
	}
	u.cut = nil
}

// strike tells of the cut of a unit that is about to happen. It is false if the cut was disarmed.
func (p *Proxy) strike(l *link, u *unit) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := u.cut
	u.cut = nil
	if a.disarmed {
		return false
	}
	a.disarmed = true
	a.struck <- Struck{Client: l.who, SQL: u.sql}
	return true
}

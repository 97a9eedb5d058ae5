// What goes on for a while: connections that stall, are slow, or hear no notifications.

package proxy

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Direction is the way that bytes go.
type Direction int

// Both directions.
const (
	Requests Direction = iota // from the client to the server
	Replies                   // from the server to the client
)

// Condition is how connections are for a while, those that are open and those that are made meanwhile. Where several
// hold for one, it is the worst of each.
type Condition struct {
	On Match

	// StallRequests and StallReplies stop that direction: nothing arrives, the end of the connection included, and
	// nothing is lost. What was sent arrives once the condition is lifted, as TCP would repeat it.
	StallRequests, StallReplies bool

	// Delay is the latency that each burst of messages has in each direction, and Jitter by how much it may be more or less.
	Delay, Jitter time.Duration

	// Drip is the pause after each single byte. Zero: bytes go together.
	Drip time.Duration

	// Deaf connections get no notifications. Those are lost.
	Deaf bool
}

// Blackhole is the condition of connections through which nothing passes, as when a cable is pulled: no answer, no
// end, and whoever connects waits.
func Blackhole(m Match) Condition { return Condition{On: m, StallRequests: true, StallReplies: true} }

// Impose makes a condition hold until lift is called.
func (p *Proxy) Impose(c Condition) (lift func()) {
	p.change(func() { p.conditions = append(p.conditions, &c) })
	return func() {
		p.change(func() {
			p.conditions = slices.DeleteFunc(p.conditions, func(other *Condition) bool { return other == &c })
		})
	}
}

// change changes the conditions, and what they mean for each connection.
func (p *Proxy) change(conditions func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conditions()
	for l := range p.links {
		p.affect(l)
	}
}

// effect is what all conditions together mean for one connection. It does not change: another takes its place.
type effect struct {
	stalled       [2]bool // by direction
	delay, jitter time.Duration
	drip          time.Duration
	deaf          bool
	over          chan struct{} // closed when another has taken its place
}

// affect gives a connection its effect; p.mu is held.
func (p *Proxy) affect(l *link) {
	e := &effect{over: make(chan struct{})}
	for _, c := range p.conditions {
		if l.known && c.On.chooses(l.who) {
			e.stalled[Requests] = e.stalled[Requests] || c.StallRequests
			e.stalled[Replies] = e.stalled[Replies] || c.StallReplies
			e.delay, e.jitter, e.drip = max(e.delay, c.Delay), max(e.jitter, c.Jitter), max(e.drip, c.Drip)
			e.deaf = e.deaf || c.Deaf
		}
	}
	if old := l.effect.Swap(e); old != nil {
		close(old.over)
	}
}

// latency draws the delay of one burst.
func (e *effect) latency() time.Duration {
	if e.jitter <= 0 {
		return e.delay
	}
	return max(0, e.delay-e.jitter+rand.N(2*e.jitter))
}

// await waits while the direction is stalled. It is false if the connection was broken meanwhile.
func (l *link) await(way Direction) bool {
	for {
		e := l.effect.Load()
		if !e.stalled[way] {
			select {
			case <-l.done:
				return false
			default:
				return true
			}
		}
		select {
		case <-e.over:
		case <-l.done:
			return false
		}
	}
}

// pause waits, or until the effect is over: then it is false.
func (l *link) pause(d time.Duration, e *effect) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.over:
	case <-l.done:
	}
	return false
}

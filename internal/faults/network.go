// Faults of the network, by the proxy between the processes and the server.

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

const networkFamily = "network"

var _ = register(
	scene.Fault{
		Name: "reset", Family: networkFamily,
		About:  "connections are reset (RST): all of a process, of one kind of a dispatcher's, or of everybody",
		Inject: resetConnections,
	},
	scene.Fault{
		Name: "blackhole", Family: networkFamily,
		About: "nothing passes between a process, or all, and the server, and nobody is told",
		Needs: scene.Needs{Slow: "who tries to reconnect in vain for that long tries again within 7.5 s"},
		Inject: func(ctx context.Context, s *scene.Scene) error {
			m, who := someProcess(s)
			s.Log.Info("blackhole", "around", who)
			return meanwhile(ctx, s, proxy.Blackhole(m), s.Long(30*time.Second, 5*time.Second))
		},
	},
	scene.Fault{
		Name: "half-open", Family: networkFamily,
		About:  "the server's side of a dispatcher's connections is closed, of all or of one kind, and the dispatcher is not told",
		Inject: halfOpen,
	},
	scene.Fault{
		Name: "latency", Family: networkFamily,
		About:  "200 ms of latency for all, and to one dispatcher the bytes drip",
		Inject: slowDown,
	},
	cutFault("cut-put", "the reply to a put that has committed is lost, with its connection", "producer", isPut),
	cutFault("cut-claim", "the reply to a claim is lost, with the lock session", "dispatcher", says(`"claim"(`)),
	cutFault("cut-complete", "the reply to outcomes that have committed is lost, with their connection", "dispatcher", isOutcome),
	scene.Fault{
		Name: "cut-inside", Family: networkFamily,
		About:  "connections end within a message, on the way there or back",
		Inject: cutInside,
	},
)

// someProcess is one of the processes, or in one case of four all of them.
func someProcess(s *scene.Scene) (m proxy.Match, who string) {
	if s.Rand.IntN(4) == 0 {
		return nil, "all"
	}
	p := s.Pick(append(s.Fleet.Dispatchers(), s.Fleet.Producers()...))
	return only(p), p.Name()
}

// only chooses the connections of one process, whose application_name is its name or begins with that.
func only(p scene.Process) proxy.Match {
	return func(c proxy.Client) bool {
		rest, its := strings.CutPrefix(c.Application, p.Name())
		return its && (rest == "" || rest[0] < '0' || rest[0] > '9') // not dispatcher-10 for dispatcher-1
	}
}

// someRole is the connections of one kind, or in one case of four all. The empty role is that of the pool.
func someRole(s *scene.Scene) (m proxy.Match, which string) {
	roles := []string{scene.LockSession, scene.Listener, "", "all"}
	which = roles[s.Rand.IntN(len(roles))]
	switch which {
	case "all":
		return nil, which
	case "":
		return proxy.InRole(which), "pool"
	}
	return proxy.InRole(which), which
}

func resetConnections(_ context.Context, s *scene.Scene) error {
	m, who := someProcess(s)
	which := "all"
	if strings.HasPrefix(who, "dispatcher") {
		var kind proxy.Match
		kind, which = someRole(s)
		m = m.And(kind)
	}
	s.Log.Info("reset", "of", who, "kind", which, "connections", s.Proxy.Reset(m))
	return nil
}

func halfOpen(ctx context.Context, s *scene.Scene) error {
	victim := s.Pick(s.Fleet.Dispatchers())
	kind, which := someRole(s)
	s.Log.Info("half-open", "of", victim.Name(), "kind", which, "connections", s.Proxy.HalfOpen(only(victim).And(kind)))
	return ctx.Err()
}

// meanwhile imposes a condition for some time.
func meanwhile(ctx context.Context, s *scene.Scene, c proxy.Condition, d time.Duration) error {
	defer s.Proxy.Impose(c)()
	return s.Wait(ctx, d)
}

func slowDown(ctx context.Context, s *scene.Scene) error {
	victim := s.Pick(s.Fleet.Dispatchers())
	// A byte in 100 µs is 10 kB/s, as a bad modem has.
	defer s.Proxy.Impose(proxy.Condition{On: only(victim), Drip: 100 * time.Microsecond})()
	return meanwhile(ctx, s, proxy.Condition{Delay: 200 * time.Millisecond, Jitter: 50 * time.Millisecond}, s.Long(20*time.Second, 3*time.Second))
}

func says(text string) func(string) bool {
	return func(sql string) bool { return strings.Contains(sql, text) }
}

func isCommit(sql string) bool { return sql == "commit" }

// isPut chooses what commits a put, whether it does so by itself or ends its transaction.
func isPut(sql string) bool {
	return strings.HasPrefix(strings.TrimSpace(sql), "insert into") || strings.Contains(sql, ".put(") || isCommit(sql)
}

// isOutcome chooses what commits the outcome of a run, in the dispatcher's own statement or the handler's transaction.
func isOutcome(sql string) bool {
	return strings.Contains(sql, `"complete"(`) || strings.Contains(sql, `"put_back"(`) || isCommit(sql)
}

// cutFault loses replies to what has committed, some of them in turn.
func cutFault(name, about, application string, says func(string) bool) scene.Fault {
	return scene.Fault{Name: name, Family: networkFamily, About: about, Inject: func(ctx context.Context, s *scene.Scene) error {
		for range 1 + s.Rand.IntN(4) {
			if err := cutOnce(ctx, s, proxy.Cut{On: proxy.Application(application), At: proxy.AfterCommit, Says: says}); err != nil {
				return err
			}
		}
		return nil
	}}
}

func cutInside(ctx context.Context, s *scene.Scene) error {
	for range 1 + s.Rand.IntN(6) {
		m, _ := someProcess(s)
		c := proxy.Cut{On: m, At: proxy.InRequest}
		if s.Rand.IntN(2) == 0 {
			c.At, c.Skip = proxy.InReply, s.Rand.IntN(6)
		}
		if err := cutOnce(ctx, s, c); err != nil {
			return err
		}
	}
	return nil
}

// cutWithin is how long a cut may wait for its moment: while there is work, and also when a process has just been cut
// off and comes back, something is said.
const cutWithin = 30 * time.Second

// cutOnce arms a cut and waits until it has struck.
func cutOnce(ctx context.Context, s *scene.Scene, c proxy.Cut) error {
	cut := s.Proxy.Arm(c)
	defer cut.Disarm()
	ctx, cancel := context.WithTimeoutCause(ctx, cutWithin, errors.New("nobody has said anything to be cut"))
	defer cancel()
	select {
	case struck := <-cut.Struck():
		s.Log.Info("cut", "application", struck.Client.Application, "role", struck.Client.Role, "statement", excerpt(struck.SQL))
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection to cut: %w", context.Cause(ctx))
	}
}

// excerpt is a statement on one line, not too long.
func excerpt(sql string) string {
	const most = 60
	line := strings.Join(strings.Fields(sql), " ")
	if len(line) > most {
		line = line[:most] + "..."
	}
	return line
}

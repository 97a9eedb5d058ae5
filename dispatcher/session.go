package dispatcher

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// sessionTimeout bounds one exchange on the lock session. A server that does not answer for so
// long may as well be gone.
const sessionTimeout = 15 * time.Second

// A lock session whose server side is gone while nobody told us answers no more, and its claims are free to others.
// So another connection is asked whether the beacon is lit: now and then while jobs are in hand, and else by the sweep.
const (
	witnessEvery   = 1500 * time.Millisecond
	witnessTimeout = time.Second
)

// sessionScope is the life of one lock session: its claims, and the contexts of their handlers,
// end with it.
type sessionScope struct {
	id        int32
	ctx       context.Context // of the handlers
	cancel    context.CancelCauseFunc
	allowance allowance

	lost     atomic.Bool // it broke; the contexts may have had another end before
	surveyed bool        // once: claims wait for it, as what the dead have left must be counted before it is run again
}

// ask is what the loop wants done on the lock session: a claim, or the names of wake locks.
type ask struct {
	claim  store.ClaimRequest
	queue  *queue   // for which the claim is; nil: it only gives back
	settle []*queue // the wake locks of these, instead of a claim
	asked  time.Time
}

// answer tells the loop what came of it.
type answer struct {
	ask
	at      time.Time // when it came
	claims  store.Claims
	buckets []int32
	err     error
}

// opening tells the loop of a new session.
type opening struct {
	id     int32
	budget int
}

// keeper owns the lock session: it opens it, carries out one ask at a time, notices when it breaks,
// and opens the next one.
type keeper struct {
	d       *Dispatcher
	asks    chan ask    // of capacity 1, and one at a time is under way, so that neither side
	answers chan answer // waits for the other
	opened  chan opening
	lost    chan error    // it broke
	first   chan struct{} // closed once a session has been opened
	busy    atomic.Bool   // jobs are in hand; set by the loop
	dark    chan int32    // the dispatcher whose beacon a sweep has seen out; of capacity 1
}

func newKeeper(d *Dispatcher) *keeper {
	return &keeper{d: d, asks: make(chan ask, 1), answers: make(chan answer, 1), opened: make(chan opening), lost: make(chan error), first: make(chan struct{}), dark: make(chan int32, 1)}
}

// run returns when ctx ends, or with the error for which the first session could not be opened and
// never will be.
func (k *keeper) run(ctx context.Context) error {
	var earlier *store.Session
	for {
		session, news, err := k.open(ctx, earlier)
		if err != nil {
			return err
		}
		if earlier == nil {
			close(k.first)
		}
		earlier = session
		err = k.serve(ctx, session, news)
		session.Close(ctx)
		if ctx.Err() != nil {
			return nil
		}
		select {
		case k.lost <- err:
		case <-ctx.Done():
			return nil
		}
	}
}

// open tries until it has a session. Once the dispatcher has worked, even an error that looks
// permanent is waited out: a failover shows a standby for a while, an upgrade another schema.
func (k *keeper) open(ctx context.Context, earlier *store.Session) (*store.Session, opening, error) {
	delays := retry.Reconnect()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for attempt := 1; ; attempt++ {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, opening{}, ctx.Err()
		}
		session, news, err := k.openOnce(ctx, earlier)
		switch {
		case err == nil:
			return session, news, nil
		case ctx.Err() != nil:
			return nil, opening{}, ctx.Err()
		case earlier == nil && store.Permanent(err):
			return nil, opening{}, err
		case attempt == 1:
			k.d.log.Warn("cannot open the lock session; trying again until it works", "error", err)
		}
		timer.Reset(delays.NextBackOff())
	}
}

func (k *keeper) openOnce(ctx context.Context, earlier *store.Session) (session *store.Session, news opening, err error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	if session, err = k.d.jobs.OpenSession(ctx); err != nil {
		return nil, news, err
	}
	if earlier != nil {
		err = session.Forget(ctx, earlier.ID())
	}
	if err == nil {
		news.id = session.ID()
		news.budget, err = session.LockBudget(ctx)
	}
	if err != nil {
		session.Close(ctx)
	}
	return session, news, err
}

// serve carries out asks until the session breaks or ctx ends.
func (k *keeper) serve(ctx context.Context, session *store.Session, news opening) error {
	select {
	case k.opened <- news:
	case <-ctx.Done():
		return nil
	}
	watched, unwatch := context.WithCancel(ctx)
	var witness sync.WaitGroup
	defer witness.Wait()
	defer unwatch()
	witness.Go(func() { k.witness(watched, session) })
	for {
		request, err := k.next(ctx, session)
		if err != nil {
			return err
		}
		reply := k.carryOut(ctx, session, request)
		reply.at = time.Now()
		k.answers <- reply // never blocks: one ask at a time is under way, and there is room for its answer
		if reply.err != nil && !errors.Is(reply.err, store.ErrLockTable) {
			return reply.err
		}
	}
}

// witness breaks the session when the server says, on another connection, that it has ended: else that would be noticed when an
// exchange takes too long, and until then handlers would go on with jobs that others run. An answer that does not come tells
// nothing about the session, but makes it likely that the pool's other connections are as dead.
func (k *keeper) witness(ctx context.Context, session *store.Session) {
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	late := false
	for {
		select {
		case <-tick.C:
		case id := <-k.dark:
			if id == session.ID() {
				session.Break()
				return
			}
			continue
		case <-ctx.Done():
			return
		}
		if !k.busy.Load() && !late {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, witnessTimeout)
		lit, err := k.d.jobs.Lit(asked, session.ID())
		late = asked.Err() == context.DeadlineExceeded
		cancel()
		switch {
		case err == nil && !lit:
			session.Break()
			return
		case late:
			k.d.jobs.Renew()
		}
	}
}

// busyLooks is how soon the next ask comes while a queue is busy.
const busyLooks = 2 * time.Millisecond

// next waits for an ask. While there is none it reads from the connection, so that a break is noticed when it happens and
// not when the session is next needed; but not between asks that follow each other, as to begin and end that takes longer
// than they are apart.
func (k *keeper) next(ctx context.Context, session *store.Session) (ask, error) {
	soon := time.NewTimer(busyLooks)
	defer soon.Stop()
	select {
	case request := <-k.asks:
		return request, nil
	case <-soon.C:
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	broken := make(chan error, 1)
	go func() { broken <- session.Wait(watching) }()
	select {
	case request := <-k.asks:
		stop()
		<-broken // an error other than our stop comes again from the exchange
		return request, nil
	case err := <-broken:
		return ask{}, err
	}
}

func (k *keeper) carryOut(ctx context.Context, session *store.Session, request ask) answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionTimeout)
	defer cancel()
	reply := answer{ask: request}
	switch {
	case request.settle != nil:
		reply.buckets, reply.err = session.Buckets(ctx, sources(request.settle))
	default:
		reply.claims, reply.err = session.Claim(ctx, request.claim)
	}
	return reply
}

func sources(queues []*queue) []*store.Queue {
	s := make([]*store.Queue, len(queues))
	for i, q := range queues {
		s[i] = q.how.Load().source
	}
	return s
}

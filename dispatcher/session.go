package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// sessionTimeout bounds one exchange on the lock session. A server that does not answer for so
// long may as well be gone.
const sessionTimeout = 15 * time.Second

// sessionScope is the life of one lock session: its claims, and the contexts of their handlers,
// end with it.
type sessionScope struct {
	ctx    context.Context // of the handlers
	cancel context.CancelCauseFunc
	budget int // how many locks it may hold
}

// ask is what the loop wants done on the lock session: a claim, a sweep, or the names of wake locks.
type ask struct {
	claim  store.ClaimRequest
	queue  *queue   // for which the claim is; nil: it only gives back
	sweep  []*queue // these, instead of a claim
	settle []*queue // the wake locks of these, instead
	asked  time.Time
}

// answer tells the loop what came of it.
type answer struct {
	ask
	at      time.Time // when it came
	claims  store.Claims
	survey  store.Survey
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
}

func newKeeper(d *Dispatcher) *keeper {
	return &keeper{d: d, asks: make(chan ask, 1), answers: make(chan answer, 1), opened: make(chan opening), lost: make(chan error), first: make(chan struct{})}
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

// next waits for an ask. While there is none it reads from the connection, so that a break is
// noticed when it happens and not when the session is next needed.
func (k *keeper) next(ctx context.Context, session *store.Session) (ask, error) {
	select {
	case request := <-k.asks:
		return request, nil
	default:
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
	case request.sweep != nil:
		reply.survey, reply.err = session.Sweep(ctx, sources(request.sweep))
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

// What a worker process tells of itself.

package workers

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// reporting is the time between two messages at least. Without news there is none, so that an idle process is idle.
const reporting = 10 * time.Millisecond

// Teller counts what handlers do. Entered and Returned may be called from any goroutine; those of the fastest benchmarks
// only touch what is atomic.
type Teller struct {
	// Set before anything is called: whether each start and each end is told.
	TellStarts, TellEnds bool

	ready       atomic.Bool
	done        atomic.Int64
	first, last atomic.Int64
	news        chan struct{} // holds one if there is anything to tell

	mu           sync.Mutex // of what follows
	starts, ends []Run
}

// NewTeller returns one that has nothing to tell yet.
func NewTeller() *Teller { return &Teller{news: make(chan struct{}, 1)} }

// Works tells that jobs are run from now on.
func (t *Teller) Works() {
	t.ready.Store(true)
	t.tell()
}

// Entered counts the job whose handler was entered.
func (t *Teller) Entered(id int64, at time.Time) {
	if t.first.Load() == 0 {
		t.first.CompareAndSwap(0, at.UnixNano())
	}
	if t.TellStarts {
		t.mu.Lock()
		t.starts = append(t.starts, Run{id, at.UnixNano()})
		t.mu.Unlock()
		t.tell()
	}
}

// Returned counts the job whose handler has returned, without an error, just now.
func (t *Teller) Returned(id int64) {
	at := time.Now().UnixNano()
	t.last.Store(at)
	if t.TellEnds {
		t.mu.Lock()
		t.ends = append(t.ends, Run{id, at})
		t.mu.Unlock()
	}
	t.done.Add(1)
	t.tell()
}

func (t *Teller) tell() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// Report tells the news until ctx ends, and then all, as last.
func (t *Teller) Report(ctx context.Context, tell func(p Progress, last bool)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.news:
			tell(t.progress(), false)
		case <-ctx.Done():
			tell(t.progress(), true)
			return
		}
		timer.Reset(reporting)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

func (t *Teller) progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Ready: t.ready.Load(), Done: int(t.done.Load()), First: t.first.Load(), Last: t.last.Load(), Starts: t.starts, Ends: t.ends}
	t.starts, t.ends = nil, nil
	return p
}

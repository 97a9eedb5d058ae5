// What takes part: the one shape that all queues are brought into, and the list of them.

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// contender is a queue with settings. To add one is to fill this in, in a file of its own, and to name it in contenders.
type contender struct {
	result.Contender

	setting string // what its worker is told: default or tuned
	// describe completes the description above, or says why it cannot take part here. Nil: there is nothing to add.
	describe func() error

	// prepare makes an empty database one that it works with, as its own migrations do. All runs get copies of that.
	prepare func(ctx context.Context, url string) error
	// produce returns how jobs are put, over a pool that is not its to close.
	produce func(ctx context.Context, pool *pgxpool.Pool) (producer, error)
	// Jobs are run by a process: of this program, by work, or of another one, exec.
	work func(ctx context.Context, w *worker) error
	exec []string

	table      string // where jobs are, for analyze
	unfinished string // "from ... where ...": the jobs that have not been run to their end
}

// job is what a job says, for every contender, as JSON.
type job struct {
	ID    int64 `json:"id"`
	Stamp int64 `json:"stamp"` // from when on its delay counts, in ns since 1970; 0: it does not
}

// producer puts jobs. Its statements are those that the contender's own library sends, or that its documents show.
type producer struct {
	// put puts one job; a due time that is not zero schedules it.
	put func(ctx context.Context, j job, due time.Time) error
	// fill puts n jobs with ids from first on, the fastest documented way, in one transaction.
	fill func(ctx context.Context, tx pgx.Tx, first int64, n int) error
}

// contenders are all, those included that are absent here. node is the directory of the Node programs.
func contenders(node string) []*contender {
	return slices.Concat([]*contender{pqDispatch()}, rivers(), nodes(node), baselines())
}

// here are those whose worker processes are of this program.
func here() []*contender { return slices.Concat([]*contender{pqDispatch()}, rivers(), baselines()) }

// ready makes a contender complete, or says why it cannot take part here.
func (c *contender) ready() error {
	if c.work != nil {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find this very program: %w", err)
		}
		c.exec = []string{self, "worker", c.ID}
	}
	if c.describe != nil {
		return c.describe()
	}
	return nil
}

// neverPresent are those that were meant to take part and have no program here. Only a full run speaks of them.
func neverPresent(full bool) []result.Absent {
	absent := []result.Absent{}
	if !full {
		return absent
	}
	absent = append(absent, result.Absent{Name: "gue", Reason: "its module could not be had: the module proxy refuses github.com/vgarvardt/gue"},
		result.Absent{Name: "goqite", Reason: "made for SQLite: on PostgreSQL it receives in serializable transactions and pauses for a second after each conflict, so to measure it here would not be fair"})
	why := "no worker program for it has been written yet"
	if err := exec.Command("python3", "-c", "import pq, psycopg2").Run(); err != nil {
		why = "needs Python with the packages pq and psycopg2, which are not installed"
	}
	return append(absent, result.Absent{Name: "Python pq", Reason: why})
}

// moduleVersion is the version of a dependency of this program.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}

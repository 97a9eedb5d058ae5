// Package demo shows the queue at work on a directory, and checks what it shows.
//
// Two dispatcher processes hash the files that a third process puts, one job a file. Each result is
// written in the transaction that completes its job, so at the end the books must balance: a result
// for each job, a job for each file, the digest that the file has. Then one more process shows how
// an urgent and a delayed job take their places, and how soon a job is run when nothing else is.
//
// Everything happens in a schema of its own, of a server that is started for it or of a given
// database, and nothing stays behind.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Options of [Run].
type Options struct {
	Dir         string    // whose regular files are hashed; empty: the current directory
	DatabaseURL string    // a schema is made in this database and dropped; empty: a server is started
	JSON        bool      // Stdout gets the [Summary] as one JSON object, not as text
	Stdout      io.Writer // the result; nil: os.Stdout
	Stderr      io.Writer // progress, as a live line if it is a terminal; nil: os.Stderr

	// Exec starts this program's hidden sub-command, to which a role is added: it has to call
	// [Process] with that role and its standard streams.
	Exec []string
}

// ErrFailed is matched by the error of a demo that ran to its end and found something wrong.
var ErrFailed = errors.New("the demo found something wrong")

const (
	dispatchers = 2 // processes that share the files

	// glance is how often the database is asked whether all is done.
	glance = 20 * time.Millisecond
)

// Run shows it all and prints a [Summary]. An error that matches [ErrFailed] names what was wrong,
// and which files. When ctx ends, Run stops the processes, removes what it made and returns the
// context's cause.
func Run(ctx context.Context, o Options) error {
	d, err := open(ctx, o)
	var s Summary
	if err == nil {
		s, err = d.show(ctx)
		err = errors.Join(err, d.close())
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it led to
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if err := d.options.print(s); err != nil {
		return fmt.Errorf("demo: print the summary: %w", err)
	}
	if err := s.err(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// show is the story.
func (d *demo) show(ctx context.Context) (s Summary, err error) {
	before, err := inventory(ctx, d.options.Dir)
	if err != nil {
		return s, err
	}
	work, err := d.handleFiles(ctx)
	if err != nil {
		return s, err
	}
	s = Summary{
		Files: len(before), Put: work.put, Processes: dispatchers, Died: work.died,
		ServerVersion: d.version, dir: d.options.Dir, embedded: d.scratch.Server != nil,
		Problems: work.skipped,
	}
	if err := d.measure(ctx, &s); err != nil {
		return s, err
	}
	if err := d.verify(ctx, before, &s); err != nil {
		return s, err
	}
	if err := d.showOrder(ctx, &s); err != nil {
		return s, err
	}
	s.conclude()
	return s, nil
}

// demo is what Run makes, and close removes.
type demo struct {
	options Options
	scratch *scratch.Scratch
	version string // of the server
	schema  string
	pool    *pgxpool.Pool
	jobs    *store.Store
}

func open(ctx context.Context, o Options) (_ *demo, err error) {
	if o, err = o.complete(); err != nil {
		return nil, err
	}
	if o.DatabaseURL == "" {
		fmt.Fprintln(o.Stderr, "no database is given; starting a PostgreSQL for the demo")
	}
	place, err := scratch.Open(ctx, scratch.Options{For: "demo", DatabaseURL: o.DatabaseURL, Log: scratch.Announcements{Writer: o.Stderr}})
	if err != nil {
		return nil, err
	}
	o.DatabaseURL = place.URL
	d := &demo{options: o, scratch: place, schema: place.Schema}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.pool, d.jobs, err = connect(ctx, d.settings("parent"), 4); err != nil {
		return nil, err
	}
	if err = d.pool.QueryRow(ctx, `show server_version`).Scan(&d.version); err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	if d.scratch.Server == nil {
		fmt.Fprintf(o.Stderr, "working in the schemas %s and %s, which are dropped at the end\n", d.schema, d.jobs.Channel())
	}
	if err = d.scratch.Migrate(ctx, d.jobs); err != nil {
		return nil, err
	}
	if _, err = d.pool.Exec(ctx, tables(d.schema)); err != nil {
		return nil, fmt.Errorf("make the demo's tables: %w", err)
	}
	return d, nil
}

func (o Options) complete() (Options, error) {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if len(o.Exec) == 0 {
		return o, errors.New("Options.Exec is empty: it must name the program whose sub-command calls Process")
	}
	dir := o.Dir
	if dir == "" {
		dir = "."
	}
	// Below the directory no link is followed; it may be one itself.
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return o, err
	}
	if info, err := os.Stat(real); err != nil {
		return o, err
	} else if !info.IsDir() {
		return o, fmt.Errorf("%q is not a directory: name one whose files are to be hashed", dir)
	}
	o.Dir = real
	return o, nil
}

// The queues of the demo.
const (
	filesQueue = "files"
	orderQueue = "order"
	idleQueue  = "idle"
)

// tables is the DDL of what the demo writes beside the queue. None has a unique constraint: what
// would be refused by one is what verify looks for.
func tables(schema string) string {
	return strings.ReplaceAll(`
		create table demo.puts (      -- which job is for which file; committed with the jobs
		  job_id      bigint not null,
		  path        bytea  not null  -- below the directory; bytes, as a file name need not be text
		);
		create table demo.results (   -- what a run found; committed with its job's completion
		  job_id      bigint not null,
		  path        bytea  not null,
		  worker      text   not null,
		  digest      bytea,           -- SHA-256; null: the file was gone
		  size        bigint not null,
		  modified    bigint not null, -- ns since 1970, when it was opened
		  enqueued_at timestamptz not null,
		  lateness_us bigint not null,
		  done_at     timestamptz not null default clock_timestamp()
		);
		create table demo.steps (     -- runs of the jobs of the queues order and idle
		  job_id      bigint not null,
		  queue       text   not null,
		  label       text   not null,
		  schedule_at timestamptz,
		  lateness_us bigint not null,
		  started_at  timestamptz not null default clock_timestamp()
		)`, "demo.", pgx.Identifier{schema}.Sanitize()+".")
}

// table is the qualified name of one of these tables.
func table(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

func (d *demo) table(name string) string { return table(d.schema, name) }

// close removes what open made.
func (d *demo) close() error {
	if d.pool != nil {
		d.pool.Close()
	}
	return d.scratch.Close()
}

// settings are for a process of that name.
func (d *demo) settings(name string, queues ...string) settings {
	return settings{Name: name, DatabaseURL: d.options.DatabaseURL, Schema: d.schema, Dir: d.options.Dir, Queues: queues}
}

// The demo's processes, and what they say.
type (
	group = child.Group[message]
	event = child.Event[message]
)

// patience is for a process that was told to stop: more than its handlers' grace and what the
// dispatcher itself takes to give up on them.
const patience = grace + 8*time.Second

func (d *demo) newGroup() *group { return child.NewGroup[message](d.options.Exec, patience) }

// start starts a process in that role.
func (d *demo) start(g *group, role, name string, queues ...string) (*child.Process, error) {
	return g.Start(name, d.settings(name, queues...), role)
}

// work is how the handling of the files went.
type work struct {
	put     int
	skipped []Problem // what the producer could not list
	died    int       // dispatcher processes that ended before they were told to
}

// handleFiles runs the three processes until all files are done.
func (d *demo) handleFiles(ctx context.Context) (w work, err error) {
	g := d.newGroup()
	live := newLive(d.options.Stderr)
	defer func() {
		err = errors.Join(err, g.Stop(live.hear))
		live.end()
	}()
	for i := range dispatchers {
		if _, err := d.start(g, "worker", fmt.Sprintf("worker %d", i+1), filesQueue); err != nil {
			return w, err
		}
	}
	look := time.NewTimer(0)
	defer look.Stop()
	ready, alive := 0, dispatchers
	var producer *child.Process
	produced := false
	for {
		select {
		case e := <-g.Events:
			live.hear(e)
			switch {
			case e.Ended && e.Process == producer:
				if e.Process.Err() != nil {
					return w, e.Process.Failure()
				}
				produced = true
			case e.Ended:
				alive--
				w.died++
				if alive == 0 {
					return w, fmt.Errorf("no dispatcher process is left: %w", e.Process.Failure())
				}
				live.say(fmt.Sprintf("%s has ended (%v); the other one takes over", e.Process.Name, e.Process.Err()))
			default:
				w.put = max(w.put, e.Message.Put)
				w.skipped = append(w.skipped, e.Message.Skipped...)
			}
			if e.Message.Ready || e.Ended {
				ready++
			}
			// The jobs would wait for them, but the time that processes take to start is not
			// lateness of a job.
			if producer == nil && ready >= dispatchers {
				if producer, err = d.start(g, "producer", "producer"); err != nil {
					return w, err
				}
			}
		case <-live.tick:
			live.show()
		case <-look.C:
			if produced {
				if done, err := d.drained(ctx, filesQueue); err != nil || done {
					return w, err
				}
			}
			look.Reset(glance)
		case <-ctx.Done():
			return w, context.Cause(ctx)
		}
	}
}

// drained tells whether the queue holds no job that will run, waiting or running.
func (d *demo) drained(ctx context.Context, queue string) (drained bool, err error) {
	err = d.pool.QueryRow(ctx, `
		select not exists (select from `+d.jobs.Table()+` where q_name = $1 and dequeued_at is null)`,
		queue).Scan(&drained)
	if err != nil {
		return false, fmt.Errorf("ask whether %s is drained: %w", queue, err)
	}
	return drained, nil
}

// measure reads from the results how fast it went, by the database's clock alone.
func (d *demo) measure(ctx context.Context, s *Summary) error {
	err := d.pool.QueryRow(ctx, `
		select count(distinct job_id), coalesce(sum(size), 0),
		       coalesce(extract(epoch from max(done_at) - min(enqueued_at)), 0)::float8
		from `+d.table("results")).Scan(&s.Done, &s.Bytes, &s.Seconds)
	if err != nil {
		return fmt.Errorf("measure the throughput: %w", err)
	}
	if s.Seconds > 0 {
		s.JobsPerSecond = float64(s.Done) / s.Seconds
	}
	rows, err := d.pool.Query(ctx, `
		select count(*) from `+d.table("results")+` group by worker order by worker`)
	if err == nil {
		s.DoneByProcess, err = pgx.CollectRows(rows, pgx.RowTo[int])
	}
	if err != nil {
		return fmt.Errorf("measure the processes' shares: %w", err)
	}
	s.Lateness, err = d.lateness(ctx, `select lateness_us from `+d.table("results"))
	return err
}

func (d *demo) lateness(ctx context.Context, query string, args ...any) (l Lateness, err error) {
	err = d.pool.QueryRow(ctx, `
		select coalesce(percentile_cont(0.5) within group (order by lateness_us), 0) / 1e3,
		       coalesce(percentile_cont(0.99) within group (order by lateness_us), 0) / 1e3,
		       coalesce(max(lateness_us), 0) / 1e3
		from (`+query+`) jobs`, args...).Scan(&l.P50, &l.P99, &l.Max)
	if err != nil {
		return l, fmt.Errorf("measure the lateness: %w", err)
	}
	return l, nil
}

// regularFiles walks the directory. It yields each regular file's path below it and what lstat says.
// A link is not followed. What cannot be read is told to skipped; what is gone meanwhile, is gone.
func regularFiles(ctx context.Context, dir string, skipped func(path string, err error)) func(yield func(string, fs.FileInfo) bool) {
	return func(yield func(string, fs.FileInfo) bool) {
		_ = filepath.WalkDir(dir, func(full string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return fs.SkipAll
			}
			path, relErr := filepath.Rel(dir, full)
			if relErr != nil {
				path = full
			}
			var info fs.FileInfo
			if err == nil && entry.Type().IsRegular() {
				info, err = entry.Info()
			}
			switch {
			case gone(err):
			case err != nil:
				skipped(path, err)
			case info != nil && info.Mode().IsRegular():
				if !yield(path, info) {
					return fs.SkipAll
				}
			}
			return nil
		})
	}
}

// Do the books balance: is there one result for each job, one job for each file, and is each digest
// that of its file?

package demo

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// The kinds of problems.
const (
	lost       = "lost"       // a job without a result, or a file without a job
	duplicated = "duplicated" // a job with two results, or a file with two jobs
	mismatched = "mismatched" // a digest that is not the file's
	failed     = "failed"     // a file that cannot be read
	misplaced  = "misplaced"  // a job out of its order
)

// Problem is something that is wrong, and why the demo fails.
type Problem struct {
	Kind   string `json:"kind"`
	Path   string `json:"path"` // of the file, below the directory; or what else it is about
	Reason string `json:"reason"`
}

func newProblem(kind, path, format string, args ...any) Problem {
	return Problem{Kind: kind, Path: printable(path), Reason: printable(fmt.Sprintf(format, args...))}
}

func (p Problem) String() string { return p.Kind + ": " + p.Path + ": " + p.Reason }

// printable is a text that neither a terminal nor JSON will change: as it is if it can be, else
// quoted as Go quotes. A file name may hold any byte.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

// inventory is what the directory holds now.
func inventory(ctx context.Context, dir string) (map[string]fs.FileInfo, error) {
	// What cannot be listed, the producer reports.
	files := maps.Collect(regularFiles(ctx, dir, func(string, error) {}))
	return files, context.Cause(ctx)
}

// verify compares the results with the jobs and with the directory, of which before is what it held
// before the first job was put. A file that was changed, made or removed meanwhile is no problem, if
// the directory says so: it is counted, and no more is asked of it.
func (d *demo) verify(ctx context.Context, before map[string]fs.FileInfo, s *Summary) error {
	if err := d.verifyJobs(ctx, s); err != nil {
		return err
	}
	after, err := inventory(ctx, d.options.Dir)
	if err != nil {
		return err
	}
	for path := range after {
		if before[path] == nil {
			s.Appeared++
		}
	}
	for path := range before {
		if after[path] == nil {
			s.Vanished++
		}
	}
	if err := d.verifyFiles(ctx, before, after, s); err != nil {
		return err
	}
	return d.verifyDigests(ctx, before, after, s)
}

// verifyJobs compares the results with the jobs that were put, by id.
func (d *demo) verifyJobs(ctx context.Context, s *Summary) error {
	setAside, err := d.setAside(ctx)
	if err != nil {
		return err
	}
	rows, err := d.pool.Query(ctx, `
		select job_id, put.path, coalesce(put.times, 0), done.path, coalesce(done.times, 0)
		from (select job_id, (array_agg(path))[1] as path, count(*) as times
		      from `+d.table("puts")+` group by job_id) put
		full join (select job_id, (array_agg(path))[1] as path, count(*) as times
		      from `+d.table("results")+` group by job_id) done using (job_id)
		order by job_id`)
	if err != nil {
		return fmt.Errorf("compare results and jobs: %w", err)
	}
	var id int64
	var putPath, donePath []byte
	var put, done, jobs int
	_, err = pgx.ForEachRow(rows, []any{&id, &putPath, &put, &donePath, &done}, func() error {
		jobs += put
		path := string(putPath)
		reason, aside := setAside[id]
		switch {
		case put == 0:
			s.problem(duplicated, string(donePath), "there is a result of job %d, which was never put", id)
		case done == 0 && aside:
			s.problem(failed, path, "%s", reason)
		case done == 0:
			s.problem(lost, path, "job %d has no result", id)
		case done > 1 || aside:
			s.problem(duplicated, path, "job %d has %d results, set aside too: %t", id, done, aside)
		case !bytes.Equal(putPath, donePath):
			s.problem(mismatched, path, "job %d has the result of %q", id, donePath)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare results and jobs: %w", err)
	}
	if jobs != s.Put {
		s.problem(lost, d.options.Dir, "the producer says that it put %d jobs, and there are %d", s.Put, jobs)
	}
	return nil
}

// setAside is the jobs that failed for good, with their reasons.
func (d *demo) setAside(ctx context.Context) (map[int64]string, error) {
	rows, err := d.pool.Query(ctx, `
		select id, coalesce(last_error, '') from `+d.jobs.Table()+` where q_name = $1 and set_aside`, filesQueue)
	if err != nil {
		return nil, fmt.Errorf("list the jobs that failed: %w", err)
	}
	reasons := map[int64]string{}
	var id int64
	var reason string
	_, err = pgx.ForEachRow(rows, []any{&id, &reason}, func() error {
		reasons[id] = reason
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the jobs that failed: %w", err)
	}
	return reasons, nil
}

// verifyFiles makes sure that each file that was there all the time has one job.
func (d *demo) verifyFiles(ctx context.Context, before, after map[string]fs.FileInfo, s *Summary) error {
	rows, err := d.pool.Query(ctx, `select path, count(*) from `+d.table("puts")+` group by path`)
	if err != nil {
		return fmt.Errorf("compare jobs and files: %w", err)
	}
	jobs := map[string]int{}
	var path []byte
	var n int
	_, err = pgx.ForEachRow(rows, []any{&path, &n}, func() error {
		jobs[string(path)] = n
		if n > 1 {
			s.problem(duplicated, string(path), "it has %d jobs", n)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare jobs and files: %w", err)
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if jobs[path] == 0 && after[path] != nil && os.SameFile(before[path], after[path]) {
			s.problem(lost, path, "the file was there all the time, and has no job")
		}
	}
	return nil
}

// result is a row of the table results.
type result struct {
	path []byte
	fingerprint
}

// verifyDigests hashes the files again.
func (d *demo) verifyDigests(ctx context.Context, before, after map[string]fs.FileInfo, s *Summary) error {
	root, err := os.OpenRoot(d.options.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	rows, err := d.pool.Query(ctx, `select path, digest, size, modified from `+d.table("results")+` order by job_id`)
	if err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	defer rows.Close()

	type verdict struct {
		problem *Problem
		changed bool
	}
	results, verdicts := make(chan result), make(chan verdict)
	hashing, hashCtx := errgroup.WithContext(ctx)
	hashing.Go(func() error {
		defer close(results)
		var r result
		_, err := pgx.ForEachRow(rows, []any{&r.path, &r.digest, &r.size, &r.modified}, func() error {
			select {
			case results <- r:
				return nil
			case <-hashCtx.Done():
				return context.Cause(hashCtx)
			}
		})
		return err
	})
	for range runtime.GOMAXPROCS(0) {
		hashing.Go(func() error {
			for r := range results {
				problem, changed := r.check(hashCtx, root, before[string(r.path)], after[string(r.path)])
				select {
				case verdicts <- verdict{problem, changed}:
				case <-hashCtx.Done():
					return context.Cause(hashCtx)
				}
			}
			return nil
		})
	}
	failure := make(chan error, 1)
	go func() {
		failure <- hashing.Wait()
		close(verdicts)
	}()
	for v := range verdicts {
		if v.changed {
			s.Changed++
		}
		if v.problem != nil {
			s.Problems = append(s.Problems, *v.problem)
		}
	}
	if err := <-failure; err != nil {
		return fmt.Errorf("hash the files again: %w", err)
	}
	return nil
}

// check hashes the file of a result again. Before and after is what the directory says of it, nil if
// it has none. Another digest is wrong if the file is in the state in which the worker found it.
func (r result) check(ctx context.Context, root *os.Root, before, after fs.FileInfo) (p *Problem, changed bool) {
	path := string(r.path)
	if r.digest == nil {
		if before != nil && after != nil && sameState(before, after) {
			return new(newProblem(mismatched, path, "the worker found no such file, and it was there all the time")), false
		}
		return nil, after != nil // if it is there now, it has come back
	}
	again, err := fingerprintOf(ctx, root, path)
	switch {
	case gone(err):
		return nil, false
	case err != nil:
		return new(newProblem(failed, path, "%v", err)), false
	case bytes.Equal(r.digest, again.digest):
		return nil, false
	case r.size != again.size || r.modified != again.modified:
		return nil, true
	}
	// It may have been changed while we read it.
	if info, err := root.Lstat(path); err != nil || info.Size() != r.size || info.ModTime().UnixNano() != r.modified {
		return nil, true
	}
	return new(newProblem(mismatched, path, "the worker found SHA-256 %x, and it is %x", r.digest, again.digest)), false
}

func sameState(before, after fs.FileInfo) bool {
	return os.SameFile(before, after) && before.Size() == after.Size() && before.ModTime().Equal(after.ModTime())
}

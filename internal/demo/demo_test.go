package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// processEnv makes the test binary the hidden sub-command; parentEnv makes it a demo of the directory
// that it names.
const (
	processEnv = "PQ_DISPATCH_DEMO_TEST_PROCESS"
	parentEnv  = "PQ_DISPATCH_DEMO_TEST_PARENT"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(processEnv) != "":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = Process(ctx, os.Args[len(os.Args)-1], os.Stdin, os.Stdout, os.Stderr)
	case os.Getenv(parentEnv) != "":
		dir := os.Getenv(parentEnv)
		os.Unsetenv(parentEnv)
		os.Setenv(processEnv, "1")
		err = Run(context.Background(), Options{Dir: dir, Exec: []string{os.Args[0]}})
	default:
		pgtest.Main(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func options(t *testing.T, dir, url string) Options {
	t.Setenv(processEnv, "1")
	return Options{Dir: dir, DatabaseURL: url, Stdout: io.Discard, Stderr: t.Output(), Exec: []string{os.Args[0]}}
}

// tree makes a directory with files of many kinds and returns how many regular files it holds, and
// their bytes.
func tree(t *testing.T) (dir string, files int, size int64) {
	t.Helper()
	dir = t.TempDir()
	put := func(path string, content []byte) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		files++
		size += int64(len(content))
	}
	random := rand.NewChaCha8([32]byte{1})
	content := func(n int) []byte {
		b := make([]byte, n)
		_, _ = random.Read(b)
		return b
	}
	for i := range 300 {
		put(fmt.Sprintf("many/%d/%d", i%7, i), content(i*10))
	}
	put("empty", nil)
	put("big", content(3<<20))
	put("a/b/c/d/e/f/g/h/i/j/deep", content(10))
	put(".hidden", content(10))
	put("with space", content(10))
	put("ümläut 日本", content(10))
	put(strings.Repeat("n", 255), content(10))
	if os.PathSeparator == '/' {
		put("quote\"and\\and'\nand\x1b[31m", content(10))
		put("-rf", content(10))
		if err := os.WriteFile(filepath.Join(dir, "probe\xff"), nil, 0o644); err == nil { // not on every system
			put("probe\xff", content(1))
			put("not\xfeutf8/\xff\xfe", content(10))
			put("not\xffutf8/\xff\xfe", content(11))
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "outside"), content(10), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"link to file": "big", "link to directory": "many", "link out": outside, "link to nothing": "nothing", "loop": "."} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Logf("no links here: %v", err)
		}
	}
	return dir, files, size
}

func TestAllFilesAreHashedOnceAndNothingStaysBehind(t *testing.T) {
	for _, where := range []string{"given database", "embedded"} {
		t.Run(where, func(t *testing.T) {
			url := ""
			if where == "given database" {
				url = pgtest.Database(t)
			}
			dir, files, size := tree(t)
			o := options(t, dir, url)
			var out bytes.Buffer
			o.Stdout, o.JSON = &out, true
			if err := Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			var got Summary
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatalf("the summary is not one JSON object: %v\n%s", err, &out)
			}
			want := Summary{Files: files, Put: files, Done: files, Bytes: size, Processes: dispatchers, Problems: []Problem{}, OK: true}
			if diff := cmp.Diff(want, got,
				cmpopts.IgnoreUnexported(Summary{}),
				cmpopts.IgnoreFields(Summary{}, "Seconds", "JobsPerSecond", "Lateness", "IdleLateness", "DoneByProcess", "Order", "ServerVersion")); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
			if !got.Order.OK || len(got.Order.Jobs) != ordinaryJobs+2 || got.Order.DelayedByMS < 0 {
				t.Errorf("got order %+v, want it to be OK", got.Order)
			}
			if got.Seconds <= 0 || got.JobsPerSecond <= 0 || got.ServerVersion == "" ||
				got.Lateness.P50 > got.Lateness.P99 || got.Lateness.P99 > got.Lateness.Max || got.Lateness.Max <= 0 || got.IdleLateness.Max <= 0 {
				t.Errorf("got numbers that cannot be: %+v", got)
			}
			sum := 0
			for _, n := range got.DoneByProcess {
				sum += n
			}
			if sum != files {
				t.Errorf("got shares %v, want a sum of %d", got.DoneByProcess, files)
			}
			var keys map[string]any
			if err := json.Unmarshal(out.Bytes(), &keys); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"files", "bytes", "put", "done", "lost", "duplicated", "seconds", "jobs_per_second",
				"lateness_ms", "processes", "order", "server_version", "ok"} {
				if _, ok := keys[key]; !ok {
					t.Errorf("the summary has no key %q", key)
				}
			}
			if url != "" {
				wantNothingLeft(t, url)
			}
			wantNoChildren(t, os.Getpid())
		})
	}
}

func TestTextSummaryTellsTheStory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "one"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := options(t, dir, pgtest.Database(t))
	var out bytes.Buffer
	o.Stdout = &out
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PostgreSQL", "1 below " + dir, "0 lost, 0 twice, 0 digests wrong", "jobs/s", "order", " urgent, ", "ok"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got a summary without %q:\n%s", want, &out)
		}
	}
}

func TestDirectoryWithoutFilesIsASuccessWithAClearMessage(t *testing.T) {
	o := options(t, t.TempDir(), pgtest.Database(t))
	var out bytes.Buffer
	o.Stdout = &out
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if want := "holds no regular file"; !strings.Contains(out.String(), want) {
		t.Errorf("got %q, want it to say %q", out.String(), want)
	}
}

func TestDirectoryThatIsNoneIsAnErrorThatNamesIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, file + "-missing"} {
		err := Run(t.Context(), options(t, dir, "postgres://127.0.0.1:1/none"))
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want an error about %s", err, dir)
		}
	}
}

func TestUnreadableFileFailsWithItsReasonAndTheOthersGoOn(t *testing.T) {
	dir, name := unreadableFile(t)
	o := options(t, dir, pgtest.Database(t))
	var out bytes.Buffer
	o.Stdout, o.JSON = &out, true
	err := Run(t.Context(), o)
	if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want an error that names %s and the reason", err, name)
	}
	var got Summary
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.OK || got.Failed != 1 || got.Done != got.Put-1 || got.Done == 0 || got.Lost != 0 {
		t.Errorf("got %+v, want one failed and the others done", got)
	}
}

// unreadableFile finds a directory with one file that cannot be read. To root nearly every one can;
// the kernel's knobs that can only be written are an exception.
func unreadableFile(t *testing.T) (dir, name string) {
	dir = t.TempDir()
	for _, name := range []string{"one", "two", "unreadable"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "unreadable"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "unreadable")); err != nil {
		return dir, "unreadable"
	}
	const knobs, knob = "/proc/sys/net/ipv4/route", "flush"
	if _, err := os.ReadFile(filepath.Join(knobs, knob)); errors.Is(err, os.ErrPermission) {
		return knobs, knob
	}
	t.Skip("this user can read every file")
	return "", ""
}

// opened is a demo whose parts a test runs one by one.
func opened(t *testing.T, dir, url string) *demo {
	t.Helper()
	d, err := open(t.Context(), options(t, dir, url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// handled is a demo that has handled the files of a small directory, and the state to verify it by.
func handled(t *testing.T) (*demo, func() Summary) {
	t.Helper()
	dir, modified := t.TempDir(), time.Now().Add(-time.Hour) // the same for all
	for i := range 5 {
		path := filepath.Join(dir, fmt.Sprintf("file%d", i))
		if err := errors.Join(os.WriteFile(path, fmt.Appendf(nil, "content %d", i), 0o644), os.Chtimes(path, modified, modified)); err != nil {
			t.Fatal(err)
		}
	}
	d := opened(t, dir, pgtest.Database(t))
	before, err := inventory(t.Context(), d.options.Dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.handleFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d, func() Summary {
		s := Summary{Put: w.put, Problems: w.skipped}
		if err := d.verify(t.Context(), before, &s); err != nil {
			t.Fatal(err)
		}
		s.conclude()
		return s
	}
}

func TestVerificationFindsWhatWasTamperedWith(t *testing.T) {
	d, verify := handled(t)
	for _, name := range []string{"puts", "results"} {
		tamper(t, d, `create table true_`+name+` as table `+name)
	}
	for name, test := range map[string]struct {
		statement string
		want      Summary
		names     string // what the error names; empty: there is none
	}{
		"nothing": {`select`, Summary{OK: true}, ""},
		"lost result": {`delete from results where path = 'file3'`,
			Summary{Lost: 1}, "file3"},
		"lost result and its job's record": {`with x as (delete from results where path = 'file3') delete from puts where path = 'file3'`,
			Summary{Lost: 2}, "file3"}, // the file has no job, and the producer's count is not met
		"result twice": {`insert into results select * from results where path = 'file1'`,
			Summary{Duplicated: 1}, "file1"},
		"job twice": {`with x as (insert into puts select job_id + 1000, path from puts where path = 'file1')
			insert into results (job_id, path, worker, digest, size, modified, enqueued_at, lateness_us)
			select job_id + 1000, path, worker, digest, size, modified, enqueued_at, lateness_us from results where path = 'file1'`,
			Summary{Duplicated: 1, Lost: 1}, "file1"}, // and again the producer's count
		"result of no job": {`update results set job_id = job_id + 1000 where path = 'file2'`,
			Summary{Lost: 1, Duplicated: 1}, "file2"},
		"results exchanged": {`update results set path = case path when 'file0' then 'file1'::bytea else 'file0' end where path in ('file0', 'file1')`,
			Summary{Mismatched: 4}, "file0"}, // neither is of its job, neither has the file's digest
		"wrong digest": {`update results set digest = sha256('other') where path = 'file4'`,
			Summary{Mismatched: 1}, "file4"},
		"file said to be gone": {`update results set digest = null, size = 0, modified = 0 where path = 'file4'`,
			Summary{Mismatched: 1}, "file4"},
		"another state of the file": {`update results set digest = sha256('other'), modified = modified - 1 where path = 'file4'`,
			Summary{Changed: 1, OK: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"puts", "results"} { // as they were
				tamper(t, d, `truncate `+name)
				tamper(t, d, `insert into `+name+` table true_`+name)
			}
			tamper(t, d, test.statement)
			got := verify()
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(Summary{}), cmpopts.IgnoreFields(Summary{}, "Put", "Problems")); diff != "" {
				t.Errorf("summary (-want +got):\n%s\nproblems: %v", diff, got.Problems)
			}
			err := got.err()
			if test.names == "" && err != nil || test.names != "" && (!errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), test.names)) {
				t.Errorf("got error %v, want one that names %q", err, test.names)
			}
		})
	}
}

// tamper runs a statement that finds the demo's tables.
func tamper(t *testing.T, d *demo, statement string) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), d.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `set local search_path = `+pgx.Identifier{d.schema}.Sanitize()+`, pg_catalog`); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), statement)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesThatChangeMeanwhileAreCountedAndNoProblem(t *testing.T) {
	d, verify := handled(t)
	inDir := func(name string) string { return filepath.Join(d.options.Dir, name) }
	later := time.Now().Add(time.Hour)
	err := errors.Join(
		os.WriteFile(inDir("file0"), []byte("CONTENT 0"), 0o644), os.Chtimes(inDir("file0"), later, later),
		os.Remove(inDir("file1")),
		os.Remove(inDir("file2")), os.Mkdir(inDir("file2"), 0o755), os.WriteFile(inDir("file2/new"), nil, 0o644),
		os.Chtimes(inDir("file3"), later, later), // touched, the same content
	)
	if err != nil {
		t.Fatal(err)
	}
	got := verify()
	if want := (Summary{Changed: 1, Vanished: 2, Appeared: 1, OK: true}); !cmp.Equal(want, got,
		cmpopts.IgnoreUnexported(Summary{}), cmpopts.IgnoreFields(Summary{}, "Put", "Problems")) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFileThatChangedWithoutATraceIsAMismatch(t *testing.T) {
	d, verify := handled(t)
	path := filepath.Join(d.options.Dir, "file0")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("CONTENT 0"), 0o644), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if got := verify(); got.Mismatched != 1 || got.OK {
		t.Errorf("got %+v, want one mismatch", got)
	}
}

func TestFileThatVanishesBeforeItsRunHasAResultThatSaysSo(t *testing.T) {
	dir, files, _ := tree(t)
	d := opened(t, dir, pgtest.Database(t))
	before, err := inventory(t.Context(), d.options.Dir)
	if err != nil {
		t.Fatal(err)
	}
	blocked := block(t, d)
	wait := start(t.Context(), t, d)
	blocked.await(dispatchers)
	// All jobs but those at work wait: at most so many files are open or hashed already.
	if err := os.RemoveAll(filepath.Join(dir, "many")); err != nil {
		t.Fatal(err)
	}
	blocked.release()
	w, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	s := Summary{Put: w.put, Problems: w.skipped}
	if err := errors.Join(d.measure(t.Context(), &s), d.verify(t.Context(), before, &s)); err != nil {
		t.Fatal(err)
	}
	s.conclude()
	if !s.OK || s.Vanished != 300 || s.Done != s.Put || s.Put > files {
		t.Errorf("got %+v, want 300 vanished and no problem", s)
	}
}

// block keeps the workers in the middle of their transactions until it is released.
type blockage struct {
	t    *testing.T
	d    *demo
	conn *pgx.Conn
	once sync.Once
}

func block(t *testing.T, d *demo) *blockage {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.options.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	b := &blockage{t: t, d: d, conn: conn}
	t.Cleanup(b.release)
	if _, err := conn.Exec(t.Context(), `begin; lock table `+d.table("results")+` in share mode`); err != nil {
		t.Fatal(err)
	}
	return b
}

// await waits until so many processes have a transaction that waits.
func (b *blockage) await(processes int) {
	b.t.Helper()
	eventually(b.t, func() bool {
		var n int
		// Not by b.conn: in a transaction the view shows the same all the time.
		err := b.d.pool.QueryRow(b.t.Context(), `
			select count(distinct application_name)
			from pg_stat_activity a
			where application_name like $1 and exists (select from pg_locks l where l.pid = a.pid and not l.granted)`,
			b.d.schema+" worker%").Scan(&n)
		if err != nil {
			b.t.Fatal(err)
		}
		return n == processes
	})
}

func (b *blockage) release() { b.once.Do(func() { _ = b.conn.Close(context.Background()) }) }

// start handles the files; the function it returns waits for the end.
func start(ctx context.Context, t *testing.T, d *demo) (wait func() (work, error)) {
	t.Helper()
	var w work
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w, err = d.handleFiles(ctx)
	}()
	t.Cleanup(func() { <-ended })
	return func() (work, error) {
		<-ended
		return w, err
	}
}

// eventually looks again and again until it is so.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it did not come to that within a minute")
		}
	}
}

// wantNothingLeft looks for schemas of the demo.
func wantNothingLeft(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `select nspname::text from pg_namespace where nspname like '%pq_dispatch%'`)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(left) > 0 {
		t.Errorf("got schemas %v, %v; want none left", left, err)
	}
}

func TestWithoutADatabaseThereAreNoSchemasToDrop(t *testing.T) {
	err := Run(t.Context(), Options{Dir: t.TempDir(), DatabaseURL: "postgres://127.0.0.1:1/none", Exec: []string{"never"}, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || strings.Contains(err.Error(), "by hand") {
		t.Errorf("got %v, want that the database is not reached, and nothing to do by hand", err)
	}
}

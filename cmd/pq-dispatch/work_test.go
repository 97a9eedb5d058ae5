//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// put puts jobs with the numbers from 1 as their data.
func (d *database) put(queue string, n int) {
	d.Helper()
	if r := d.runWith(numbers(n), "put", queue, "--jsonl"); r.code != exitOK {
		d.Fatal(r.stderr)
	}
}

// shell runs jobs of the queue apples by a shell script until none is due.
func (d *database) shell(script string, flags ...string) result {
	return d.run(append(append([]string{"work", "apples", "--until-empty"}, flags...), "--", "sh", "-c", script)...)
}

func TestWorkRunsTheCommandForEachJob(t *testing.T) {
	d := newDatabase(t)
	t.Setenv("PQ_DISPATCH_SECRET", "canary")
	t.Setenv("OTHER_VARIABLE", "kept")
	d.must("put", "apples", `{"kind": "Cox"}`)
	d.must("put", "apples", `["$(id)"]`, "--task", "eat it")
	d.must("put", "pears", `1`)
	r := d.run("work", "apples", "pears", "--until-empty", "--concurrency", "1", "--", "sh", "-c",
		`read -r line; echo "$PQ_DISPATCH_JOB_ID|$PQ_DISPATCH_QUEUE|$PQ_DISPATCH_TASK|$PQ_DISPATCH_ATTEMPT|$line|$0|$OTHER_VARIABLE|$PQ_DISPATCH_SECRET"; echo "$PQ_DISPATCH_JOB_ID too" >&2`,
		"; not a shell's")
	if r.code != exitOK {
		t.Fatal(r.stderr)
	}
	for _, line := range []string{
		"1|apples||1|{\"kind\": \"Cox\"}|; not a shell's|kept|\n",
		"2|apples|eat it|1|[\"$(id)\"]|; not a shell's|kept|\n",
		"3|pears||1|1|; not a shell's|kept|\n",
	} {
		contains(t, "standard output", r.stdout, line)
	}
	if n := strings.Count(r.stdout, "\n"); n != 3 {
		t.Errorf("lines: got %d, want 3", n)
	}
	contains(t, "standard error", r.stderr, "2 too\n")
	wants(t, "jobs left", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

func TestWorkRunsNoMoreAtOnceThanItMay(t *testing.T) {
	d := newDatabase(t)
	d.put("apples", 12)
	// A directory per running command: the third one at once would find two.
	dir := t.TempDir()
	r := d.shell(`cd `+dir+` && mkdir run.$$ && n=$(ls -d run.* | wc -l) && sleep 0.05 && rmdir run.$$ && echo $n`, "--concurrency", "2")
	if r.code != exitOK || strings.Count(r.stdout, "\n") != 12 {
		t.Fatalf("got %+v, want 12 runs", r)
	}
	for n := range strings.Lines(r.stdout) {
		if n := strings.TrimSpace(n); n != "1" && n != "2" {
			t.Errorf("commands at once: got %s, want at most 2", n)
		}
	}
}

func TestWorkRetriesAFailedJobAndSetsItAside(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", `"own limit"`, "--max-attempts", "2")
	d.must("put", "apples", `"default limit"`)
	r := d.shell(`echo "attempt $PQ_DISPATCH_ATTEMPT" >&2; printf 'bytes \377' >&2; exit 3`, "--retry-in", "0", "--max-attempts", "3")
	if r.code != exitOK {
		t.Fatal(r.stderr)
	}
	for id, attempts := range map[int]int{1: 2, 2: 3} {
		var last string
		err := d.query.QueryRow(t.Context(), `select last_error from queue where id = $1 and set_aside and attempt = $2`, id, attempts).Scan(&last)
		if err != nil {
			t.Errorf("job %d set aside after %d attempts: %v", id, attempts, err)
		}
		wants(t, "last_error", last, fmt.Sprintf("exit status 3: attempt %d\nbytes \uFFFD", attempts))
	}
	contains(t, "log", r.stderr, `error="exit status 3"`) // without what the command has written
}

func TestWorkSucceedsWithWhatFailedAtFirst(t *testing.T) {
	d := newDatabase(t)
	d.put("apples", 1)
	r := d.shell(`test $PQ_DISPATCH_ATTEMPT = 3 && echo third`, "--retry-in", "0")
	wants(t, "standard output", r.stdout, "third\n")
	wants(t, "jobs left", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

func TestWorkKeepsTheEndOfLongErrorsOnly(t *testing.T) {
	d := newDatabase(t)
	d.put("apples", 1)
	d.shell(`head -c 1000000 /dev/zero | tr '\0' x >&2; printf 'the end' >&2; exit 1`, "--max-attempts", "1")
	if n := d.number(`select length(last_error) from queue where last_error like 'exit status 1: xxx%the end'`); n != len("exit status 1: ")+maxTail {
		t.Errorf("length of last_error: got %d, want %d", n, len("exit status 1: ")+maxTail)
	}
}

func TestWorkRefusesAQueueNamedTwice(t *testing.T) {
	d := newDatabase(t)
	d.run("work", "apples", "apples", "--", "true").failsWith(t, exitUsage, "two handlers")
}

func TestWorkThroughAPoolerExitsWith1AndTheRemedy(t *testing.T) {
	d := newDatabase(t)
	pooled := pgtest.Pooler(t, d.url)
	r := cli("", "--database-url", pooled, "work", "apples", "--until-empty", "--", "true")
	if at := strings.Index(r.stderr, "pq-dispatch: "); at > 0 {
		r.stderr = r.stderr[at:] // after what a dispatcher may log
	}
	r.failsWith(t, exitFailed, "--direct-url")

	pooled += "&default_query_exec_mode=exec"
	for _, args := range [][]string{
		{"put", "apples", "1"},
		{"get", "apples"},
		{"put", "apples", "2"},
		{"work", "apples", "--until-empty", "--direct-url", d.url, "--", "cat"},
	} {
		if r := cli("", append([]string{"--database-url", pooled}, args...)...); r.code != exitOK {
			t.Errorf("%q: got exit code %d and %q, want 0", args, r.code, r.stderr)
		}
	}
	wants(t, "jobs left", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

func TestWorkTakesLargeDataThatTheCommandDoesNotRead(t *testing.T) {
	d := newDatabase(t)
	large := `"` + strings.Repeat("x", 1<<20-10) + `"`
	for range 3 {
		d.runWith(large, "put", "apples")
	}
	d.shell("exit 0")
	d.runWith(large, "put", "apples")
	wants(t, "bytes read", strings.TrimSpace(d.shell("wc -c").stdout), fmt.Sprint(len(large)+1))
	wants(t, "jobs left", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

// pids reads the numbers of processes from a file that a command writes.
func (d *database) pids(file string, n int) (all []int) {
	d.Helper()
	d.eventually(fmt.Sprintf("%d processes are named", n), func() bool {
		text, _ := os.ReadFile(file)
		all = nil
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				all = append(all, pid)
			}
		}
		return strings.HasSuffix(string(text), "\n") && len(all) >= n
	})
	d.Cleanup(func() {
		for _, pid := range all {
			if d.Failed() && alive(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return all
}

// alive tells whether a process runs. One that is dead and only not waited for does not.
func alive(pid int) bool {
	if runtime.GOOS == "linux" {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		_, state, _ := bytes.Cut(stat, []byte(") "))
		return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
	}
	return syscall.Kill(pid, 0) == nil
}

func (d *database) allEnd(pids []int) {
	d.Helper()
	for _, pid := range pids {
		d.eventually(fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
}

// family is a script whose shell, its child and its grandchild write their numbers to a file and stay.
const family = `sh -c 'sleep 1000 & echo $! >> "$1"; echo $$ >> "$1"; wait' sh "$1" & echo $$ >> "$1"; wait`

func TestWorkEndsACommandAndItsChildrenWhenItsTimeIsOver(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"obedient", family, "signal: terminated"},
		{"deaf to SIGTERM", `trap '' TERM; ` + family, "signal: killed"},
		{"exits with 0", `trap 'exit 0' TERM; ` + family, "exit status 0, after it was told to stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDatabase(t)
			file := filepath.Join(t.TempDir(), "pids")
			// Its time has to be over after it has started all its processes, which takes as long as the machine lets it.
			timeout := 300 * time.Millisecond
			for ; ; timeout *= 2 {
				_ = os.Remove(file)
				d.put("apples", 1)
				r := d.run("work", "apples", "--until-empty", "--timeout", timeout.String(), "--max-attempts", "1", "--", "sh", "-c", tt.script, "sh", file)
				if r.code != exitOK {
					t.Fatal(r.stderr)
				}
				if strings.Count(text(file), "\n") == 3 {
					break
				}
			}
			d.allEnd(d.pids(file, 3))
			var last string
			if err := d.query.QueryRow(t.Context(), `select last_error from queue where set_aside order by id desc`).Scan(&last); err != nil {
				t.Fatal(err)
			}
			contains(t, "last_error", last, tt.want)
			contains(t, "last_error", last, timeout.String())
		})
	}
}

func TestWorkEndsWhatACommandLeavesBehind(t *testing.T) {
	d := newDatabase(t)
	d.put("apples", 1)
	file := filepath.Join(t.TempDir(), "pids")
	// The one left behind holds the pipe of standard error. Standard output is a file here, as it is in a
	// terminal or a shell, so that nobody waits for its end.
	stdout, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	code := run([]string{"--database-url", d.url, "work", "apples", "--until-empty", "--", "sh", "-c", `sleep 1000 & echo $! > "$1"`, "sh", file}, nil, stdout, io.Discard)
	if code != exitOK {
		t.Fatalf("exit code: got %d, want 0", code)
	}
	d.allEnd(d.pids(file, 1))
	wants(t, "jobs left", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

// program starts the program as a process of its own, on the database.
func (d *database) program(stdin io.Reader, args ...string) *program {
	d.Helper()
	p := &program{d: d, cmd: exec.Command(os.Args[0], append([]string{"--database-url", d.url}, args...)...)}
	p.cmd.Env = append(os.Environ(), envProgram+"=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.stdout, &p.stderr
	p.done = pgtest.Start(d.T, p.cmd)
	return p
}

type program struct {
	d              *database
	cmd            *exec.Cmd
	done           chan struct{}
	stdout, stderr bytes.Buffer // to be read when it has ended
}

func (p *program) signal(s os.Signal) {
	p.d.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.d.Fatal(err)
	}
}

// ends waits for its end and checks that its exit code is one of these.
func (p *program) ends(codes ...int) {
	p.d.Helper()
	p.d.eventually("the program ends", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if got := p.cmd.ProcessState.ExitCode(); !slices.Contains(codes, got) {
		p.d.Errorf("exit code: got %d, want %d (%s)", got, codes, p.stderr.String())
	}
}

func TestTheFirstSignalLetsACommandFinish(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		d := newDatabase(t)
		d.put("apples", 1)
		dir := t.TempDir()
		p := d.program(nil, "work", "apples", "--concurrency", "2", "--", "sh", "-c",
			`cd "$1"; echo $$ >> pids; while test ! -e go; do sleep 0.01; done; echo finished`, "sh", dir)
		pids := d.pids(filepath.Join(dir, "pids"), 1)
		waits := func() bool {
			return d.number(`select count(*) from pg_locks where locktype = 'advisory' and classid = 'pq_dispatch.ledger'::regclass::oid`) > 0
		}
		d.eventually("it waits for more jobs", waits)
		p.signal(s)
		d.eventually("it has heard the signal", func() bool { return !waits() })
		d.put("apples", 1) // which would have a slot
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.ends(exitOK)
		d.allEnd(pids)
		wants(t, "standard output", p.stdout.String(), "finished\n")
		wants(t, "jobs left, their attempt not counted", fmt.Sprint(d.number(`select count(*) from queue where attempt = 1`)), "1")
	}
}

func TestAfterTheGraceACommandIsEndedAndItsAttemptNotCounted(t *testing.T) {
	for name, script := range map[string]string{"obedient": family, "deaf to SIGTERM": `trap '' TERM; ` + family} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			d.put("apples", 1)
			file := filepath.Join(t.TempDir(), "pids")
			p := d.program(nil, "work", "apples", "--grace", "0", "--", "sh", "-c", script, "sh", file)
			pids := d.pids(file, 3)
			p.signal(syscall.SIGTERM)
			p.ends(exitOK)
			d.allEnd(pids)
			wants(t, "jobs left, their attempt not counted", fmt.Sprint(d.number(`select count(*) from queue where attempt = 1`)), "1")
		})
	}
}

func TestTheSecondSignalEndsEverythingAtOnce(t *testing.T) {
	d := newDatabase(t)
	d.put("apples", 1)
	file := filepath.Join(t.TempDir(), "pids")
	p := d.program(nil, "work", "apples", "--grace", "1h", "--", "sh", "-c", `trap '' TERM INT; `+family, "sh", file)
	pids := d.pids(file, 3)
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGINT) // the kernel may deliver it first
	p.ends(128+int(syscall.SIGINT), 128+int(syscall.SIGTERM))
	d.allEnd(pids)
}

func TestACommandDiesWithAKilledProgram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process that its parent has died")
	}
	d := newDatabase(t)
	d.put("apples", 1)
	file := filepath.Join(t.TempDir(), "pids")
	p := d.program(nil, "work", "apples", "--", "sh", "-c", `echo $$ > "$1"; exec sleep 1000`, "sh", file)
	pids := d.pids(file, 1)
	p.signal(syscall.SIGKILL)
	p.ends(-1)
	d.allEnd(pids)
}

func TestASignalCutsAWaitingGetOff(t *testing.T) {
	d := newDatabase(t)
	p := d.program(nil, "get", "apples", "--timeout", "forever")
	d.eventually("the Get waits", func() bool {
		return d.number(`select count(*) from pg_locks where locktype = 'advisory' and classid = 'pq_dispatch.ledger'::regclass::oid`) > 0
	})
	p.signal(syscall.SIGINT)
	p.ends(128 + int(syscall.SIGINT))
	wants(t, "standard error", p.stderr.String(), "pq-dispatch: stopped by signal: interrupt\n")
}

func TestASignalCutsAPutFromAnOpenPipeOffAndNothingIsPut(t *testing.T) {
	d := newDatabase(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := d.program(r, "put", "apples", "--jsonl")
	r.Close()
	if _, err := io.WriteString(w, numbers(5000)); err != nil {
		t.Fatal(err)
	}
	d.eventually("jobs are on their way", func() bool {
		return d.number(`select count(*) from pg_stat_activity where datname = current_database() and xact_start is not null and application_name = 'pq-dispatch'`) > 0
	})
	p.signal(syscall.SIGTERM)
	p.ends(128 + int(syscall.SIGTERM))
	wants(t, "jobs", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
}

func TestTheDemoRuns(t *testing.T) {
	t.Setenv(envProgram, "1") // its processes are this test binary, too
	d := newDatabase(t)
	dir := t.TempDir()
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), []byte(strings.Repeat("x", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := d.program(nil, "demo", dir, "--json")
	p.ends(exitOK)
	contains(t, "summary", p.stdout.String(), `"ok":true`)
	contains(t, "summary", p.stdout.String(), `"files":20`)
	wants(t, "schemas left", fmt.Sprint(d.number(`select count(*) from pg_namespace where nspname like 'pq_dispatch_demo%'`)), "0")
}

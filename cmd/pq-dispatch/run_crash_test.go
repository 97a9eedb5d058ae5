//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// deadly is a configuration whose jobs end once there is a file "go".
func deadly(t *testing.T, dir string) string {
	return `
queue: {retry: {policy: fixed, delay: 0s}}
queues:
  pears: {exec: {command: ` + sh(`cd "$1"; echo $$ >> exec; until test -e go; do sleep 0.01; done; echo "$PQ_DISPATCH_ATTEMPT" > attempt`, dir) + `}}
  apples: {worker: {processes: 1, command: ` + sh(`cd "$1"; echo $$ >> worker
echo '{"ready":true,"protocol":1}'
while read -r line; do
  id=${line#*'"id":"'}; id=${id%%'"'*}
  echo $$ >> working
  until test -e go; do sleep 0.01; done
  echo "{\"id\":\"$id\",\"outcome\":\"done\"}"
done`, dir) + `}}
`
}

func TestJobsOfAKilledDaemonAreRunByAnotherAndItsChildrenDie(t *testing.T) {
	d := newDatabase(t)
	dir := t.TempDir()
	one := d.daemon(deadly(t, dir))
	d.must("put", "pears", "1")
	d.must("put", "apples", "1")
	children := append(d.pids(filepath.Join(dir, "exec"), 1), d.pids(filepath.Join(dir, "working"), 1)...)
	other := d.daemon(deadly(t, dir))
	one.signal(syscall.SIGKILL)
	one.ends(-1)
	d.allEnd(children)
	d.pids(filepath.Join(dir, "exec"), 2) // the other one's
	d.pids(filepath.Join(dir, "working"), 2)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.empty()
	// The other one may have claimed the job before it, or anyone, had counted the death.
	if attempt := text(filepath.Join(dir, "attempt")); attempt != "1\n" && attempt != "2\n" {
		t.Errorf("the attempt that succeeded: got %q, want 1 or 2", attempt)
	}
	other.signal(syscall.SIGTERM)
	other.ends(exitOK)
}

func TestAKilledChildFailsItsJobAlone(t *testing.T) {
	d := newDatabase(t)
	dir := t.TempDir()
	s := d.daemon(deadly(t, dir))
	for i, queue := range []string{"pears", "apples"} {
		pids := filepath.Join(dir, []string{"exec", "working"}[i])
		d.must("put", queue, "1")
		first := d.pids(pids, 1)[0]
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if second := d.pids(pids, 2)[1]; second == first {
			t.Errorf("%s: got process %d twice, want another one", queue, first)
		}
		var failed map[string]any
		d.eventually("the log says that a job of "+queue+" has failed", func() bool { // it comes through a pipe
			failed = s.log.find("job failed")
			return failed != nil && failed["queue"] == queue
		})
		contains(t, "error", fmt.Sprint(failed["error"]), "signal: killed")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.empty()
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
	if n := strings.Count(text(filepath.Join(dir, "worker")), "\n"); n != 2 {
		t.Errorf("worker processes: got %d, want the one that was killed and another", n)
	}
}

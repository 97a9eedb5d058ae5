//go:build unix

package main

import (
	"syscall"
	"testing"
)

func TestTuneThatIsInterruptedLeavesNothing(t *testing.T) {
	d := newDatabase(t)
	p := d.program(nil, "bench", "tune", "--work", "50ms", "--budget", "5m")
	d.eventually("its dispatchers are there", func() bool {
		return d.number(`select count(*) from pg_stat_activity where application_name like 'pq_dispatch_bench% dispatcher %'`) > 0
	})
	p.signal(syscall.SIGINT)
	p.ends(128 + int(syscall.SIGINT))
	wants(t, "standard output", p.stdout.String(), "")
	wants(t, "standard error", p.stderr.String(), "pq-dispatch: stopped by signal: interrupt\n")
	wants(t, "schemas left", d.benchSchemas(), "0")
	d.eventually("no connection is left", func() bool { // the server sees to a closed one in its own time
		return d.number(`select count(*) from pg_stat_activity where application_name like 'pq_dispatch_bench%'`) == 0
	})
}

package tune

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/internal/doctor"
)

func TestAdviceIsGivenForWhatTheServerIs(t *testing.T) {
	usual := map[string]string{"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "wal_compression": "pglz"}
	with := func(name, value string) map[string]string {
		settings := maps.Clone(usual)
		settings[name] = value
		return settings
	}
	for what, test := range map[string]struct {
		server Server
		want   []string // what it is about
	}{
		"the usual":                  {Server{Settings: usual}, []string{"synchronous_commit"}},
		"uncompressed WAL":           {Server{Settings: with("wal_compression", "off")}, []string{"synchronous_commit", "wal_compression"}},
		"no fsync":                   {Server{Settings: with("fsync", "off")}, []string{"fsync", "synchronous_commit"}},
		"little WAL":                 {Server{Settings: usual, WAL: 1 << 20, MaxWAL: 1 << 30, CheckpointTimeout: 5 * time.Minute}, []string{"synchronous_commit"}},
		"much WAL":                   {Server{Settings: usual, WAL: 20 << 20, MaxWAL: 1 << 30, CheckpointTimeout: 5 * time.Minute}, []string{"synchronous_commit", "max_wal_size"}},
		"a small lock table":         {Server{Settings: usual, Findings: []doctor.Finding{{Check: "locks", Level: doctor.Problem}}}, []string{"locks", "synchronous_commit"}},
		"a large lock table":         {Server{Settings: usual, Findings: []doctor.Finding{{Check: "locks", Level: doctor.OK}}}, []string{"synchronous_commit"}},
		"a finding about the schema": {Server{Settings: usual, Findings: []doctor.Finding{{Check: "schema", Level: doctor.Problem}}}, []string{"synchronous_commit"}},
	} {
		var got []string
		for _, a := range Advise(test.server) {
			got = append(got, a.About)
			if a.About != "locks" && (a.Text == "" || a.Do == "") {
				t.Errorf("%s: got %+v, want it to say what to do", what, a)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

func TestSynchronousCommitIsNeverAdvisedAgainstSilently(t *testing.T) {
	for _, now := range []string{"on", "local", "remote_write", "remote_apply", "off"} {
		for _, a := range Advise(Server{Settings: map[string]string{"synchronous_commit": now}}) {
			if a.About != "synchronous_commit" {
				continue
			}
			if now == "off" && !strings.Contains(a.Do, "on") || now != "off" && (a.Breaks == "" || !strings.HasPrefix(a.Do, "leave it")) {
				t.Errorf("got %+v where it is %s", a, now)
			}
		}
	}
}

//go:build unix

package doctor

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestAPoolerIsNoticed(t *testing.T) {
	direct := migrated.Database(t)
	pooler := pgtest.Pooler(t, direct)
	straight := store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, direct) }}
	for _, tt := range []struct {
		name    string
		address string
		s       store.Options
		level   Level
		text    string
	}{
		{"both through the pooler", pooler + "&default_query_exec_mode=exec", store.Options{}, Problem, "the direct connection goes through a pooler"},
		{"prepared statements", pooler, straight, Warning, "prepared statements"},
		{"as it should be", pooler + "&default_query_exec_mode=exec", straight, OK, "dispatchers' sessions are direct"},
		{"a pooler for the dispatchers only", direct, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return pgx.Connect(ctx, pooler+"&default_query_exec_mode=exec")
		}}, Problem, "goes through a pooler"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			findings := examine(t, tt.address, tt.s, Options{})
			find(t, findings, "connection").wants(t, tt.level, tt.text)
			for _, f := range findings {
				if f.Check != "connection" && f.Level == Problem {
					t.Errorf("got %+v, want no other problem", f)
				}
			}
		})
	}
}

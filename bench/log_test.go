package bench

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

func TestTheServersLogTellsHowManyStatementsThereWere(t *testing.T) {
	i := slices.IndexFunc(Benches(), func(b Bench) bool { return b.Name == "idle" })
	log := newStatementLog()
	marks := make(chan int64, 2) // how many there were when the log had come to a mark
	read := log.Each
	log.Each = func(line []byte) {
		read(line)
		if bytes.HasSuffix(line, []byte(" select 'mark'")) {
			marks <- log.statements.Load()
		}
	}
	server := pgtest.Server(t, devpg.Options{Settings: Benches()[i].Server, Log: log})
	conn, err := pgx.Connect(t.Context(), server.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	mark := func() int64 {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "select 'mark'"); err != nil {
			t.Fatal(err)
		}
		return <-marks
	}
	before := mark()
	for i := range 20 {
		if _, err := conn.Exec(t.Context(), "select\n$1::integer", i); err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := mark() - before; got != 41 {
		t.Errorf("got %d statements, want 40 and the mark", got)
	}
}

func TestALogIsReadWhateverThePiecesItComesIn(t *testing.T) {
	text := "2026 UTC [1] LOG:  statement: select 1\n2026 UTC [1] LOG:  execute x: select 2\n\tfrom y\n2026 UTC [1] ERROR:  no LOG: \n2026 UTC [1] LOG:  statement: -- ping\n"
	for size := 1; size <= len(text); size++ {
		l := newStatementLog()
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if _, err := io.WriteString(l, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got := l.statements.Load(); got != 3 {
			t.Errorf("in pieces of %d: got %d statements, want 3", size, got)
		}
	}
}

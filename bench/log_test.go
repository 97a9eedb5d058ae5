package bench

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

func TestTheServersLogTellsHowManyStatementsThereWere(t *testing.T) {
	i := slices.IndexFunc(Benches(), func(b Bench) bool { return b.Name == "idle" })
	var text bytes.Buffer
	log := &serverLog{Writer: &text}
	server := pgtest.Server(t, devpg.Options{Settings: Benches()[i].Server, Log: log})
	conn, err := pgx.Connect(t.Context(), server.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// count is how many there were, once the log has come as far as this mark.
	count := func(mark string) int {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "select '"+mark+"'"); err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			log.mu.Lock()
			heard := strings.Contains(text.String(), mark+"'\n")
			log.mu.Unlock()
			if heard {
				return log.count()
			}
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal("the mark is not in the log")
			}
		}
	}
	before := count("the first mark")
	for i := range 20 {
		if _, err := conn.Exec(t.Context(), "select\n$1::integer", i); err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := count("the second mark") - before; got != 41 {
		t.Errorf("got %d statements, want 40 and the mark", got)
	}
}

func TestALogIsReadWhateverThePiecesItComesIn(t *testing.T) {
	text := "2026 UTC [1] LOG:  statement: select 1\n2026 UTC [1] LOG:  execute x: select 2\n\tfrom y\n2026 UTC [1] ERROR:  no LOG: \n2026 UTC [1] LOG:  statement: -- ping\n"
	for size := 1; size <= len(text); size++ {
		l := &serverLog{Writer: io.Discard}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if _, err := io.WriteString(l, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if l.count() != 3 {
			t.Errorf("in pieces of %d: got %d statements, want 3", size, l.count())
		}
	}
}

package bench

import (
	"io"
	"testing"
	"time"
)

func TestTheServersLogTellsHowManyStatementsThereWere(t *testing.T) {
	for _, b := range Benches() {
		if b.Name != "idle" {
			continue
		}
		h, err := open(t.Context(), b, options(t, "", Scale{}))
		if err != nil {
			t.Fatal(err)
		}
		defer h.close()
		before := h.log.count()
		for i := range 20 {
			if _, err := h.pool.Exec(t.Context(), "select\n$1::integer", i); err != nil {
				t.Fatal(err)
			}
			if _, err := h.pool.Exec(t.Context(), "select\n1"); err != nil {
				t.Fatal(err)
			}
		}
		deadline := time.Now().Add(time.Minute)
		for h.log.count() < before+40 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond) // it comes by a pipe
		}
		if got := h.log.count() - before; got != 40 {
			t.Errorf("got %d statements, want 40", got)
		}
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

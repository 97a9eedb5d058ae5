package main

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
)

func TestAServerCanLiveAnHourLater(t *testing.T) {
	if _, err := compiler(); err != nil {
		t.Skip(err)
	}
	server, err := startOff(t.Context(), devpg.Options{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := pgx.Connect(t.Context(), server.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var at time.Time
	if err := conn.QueryRow(t.Context(), `select clock_timestamp()`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	if got := time.Until(at); (got - time.Hour).Abs() > time.Minute {
		t.Errorf("the server's clock is %v ahead of ours, want an hour", got)
	}
	// Its timers are as they were.
	if _, err := conn.Exec(t.Context(), `set statement_timeout = '100ms'`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `select pg_sleep(60)`); err == nil {
		t.Error("pg_sleep(60) under a statement_timeout of 100 ms: got no error, want one")
	}
}

package main

import (
	"testing"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// named is a process of which only the name counts.
type named struct {
	scene.Process
	name string
}

func (n named) Name() string { return n.name }

func TestAProcessIsKnownByItsApplicationName(t *testing.T) {
	for application, want := range map[string]bool{
		"dispatcher-1":         true,
		"dispatcher-1/handler": true,
		"dispatcher-10":        false,
		"dispatcher-":          false,
		"producer-1":           false,
		"":                     false,
	} {
		if got := only(named{name: "dispatcher-1"})(proxy.Client{Application: application}); got != want {
			t.Errorf("%q: got %t, want %t", application, got, want)
		}
	}
}

func TestStatementsAreToldApartByWhatTheyCommit(t *testing.T) {
	for sql, want := range map[string]struct{ put, outcome bool }{
		"commit": {true, true},
		"\n\t\tinsert into \"public\".\"queue\" (q_name) values ($1)": {put: true},
		"select pq_dispatch.put($1, $2)":                              {put: true},
		`select "pq_dispatch"."complete"($1)`:                         {outcome: true},
		`select "pq_dispatch"."put_back"($1)`:                         {outcome: true},
		"rollback":                                                    {},
		"begin":                                                       {},
		"select id from queue":                                        {},
		`select "pq_dispatch"."claim"($1)`:                            {},
		"insert into faults.effects values ($1, $2)":                  {put: true}, // of a dispatcher, whom no cut of puts is for
	} {
		if got := isPut(sql); got != want.put {
			t.Errorf("%q as a put: got %t, want %t", sql, got, want.put)
		}
		if got := isOutcome(sql); got != want.outcome {
			t.Errorf("%q as an outcome: got %t, want %t", sql, got, want.outcome)
		}
	}
}

func TestAnExcerptIsOneShortLine(t *testing.T) {
	for sql, want := range map[string]string{
		"": "", "commit": "commit", "\n\tselect 1,\n\t  2": "select 1, 2",
		"select aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "select aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...",
	} {
		if got := excerpt(sql); got != want {
			t.Errorf("%q: got %q, want %q", sql, got, want)
		}
	}
}

package view

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// number is an id that is a string in JSON.
type number int64

func (number) MarshalText() ([]byte, error) { return []byte("a number"), nil }

func marshal(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("got %v, want %+v as JSON", err, v)
	}
	return string(text)
}

func TestTheIDIsAsItsTypeSays(t *testing.T) {
	details := &store.Details{Entry: store.Entry{ID: math.MaxInt64, State: store.Waiting}, Data: json.RawMessage(`1`)}
	const rest = `,"queue":"","state":"waiting","task":null,"attempt":0,"max_attempts":null,"enqueued_at":null,"schedule_at":null,` +
		`"expected_at":null,"dequeued_at":null,"last_error":null,"data":1,"metadata":null,"held_by":null}`
	for got, want := range map[string]string{
		marshal(t, DetailsOf[int64](details)):  `{"id":9223372036854775807` + rest,
		marshal(t, DetailsOf[number](details)): `{"id":"a number"` + rest,
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestWhatIsNotThereIsNullAndNoListIsNull(t *testing.T) {
	for got, want := range map[string]string{
		marshal(t, PageOf[int64](store.Page{})): `{"jobs":[],"next":null,"cut":false}`,
		marshal(t, OverviewOf(store.Overview{})): `{"queue":"","ready":0,"scheduled":0,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null,` +
			`"at_least":[],"paused":null}`,
		marshal(t, OverviewOf(store.Overview{AtLeast: []string{"ready", "oldest"}}).AtLeast): `["ready","oldest_seconds"]`,
		marshal(t, DispatcherOf(store.Dispatcher{})): `{"id":0,"alive":false,"pid":null,"application":null,"address":null,"since":null,` +
			`"jobs":0,"batches":0,"oldest_claim_seconds":null}`,
		marshal(t, DetailsOf[int64](&store.Details{Holder: &store.Holder{IsDispatcher: true}}).Holder): `{"pid":0,"application":null,"address":null,` +
			`"connected_at":null,"dispatcher":0,"claimed_at":null}`,
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// The database's times go from 4713 BC to 294276.
func TestEachTimeOfTheDatabaseIsOneInJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Date(rapid.IntRange(-4713, 294276).Draw(t, "year"), 6, 1, 0, 0, 0, 0, time.UTC)
		text, err := json.Marshal(Instant(at))
		if err != nil {
			t.Fatalf("got %v, want %v as JSON", err, at)
		}
		var got time.Time
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if want := min(max(at.Year(), 0), 9999); got.Year() != want {
			t.Fatalf("got the year %d, want %d", got.Year(), want)
		}
	})
}

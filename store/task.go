package store

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Task is a kind of job with arguments of type T, checked by the compiler where it is put and
// where it is handled. Define it once, as a package variable:
//
//	var Eat = store.Task[Meal]{Queue: "apples", Name: "eat", MaxRetries: 3, RetryIn: time.Minute}
//
// A program that puts needs only the definition; dispatcher.HandleTask gives it a handler.
type Task[T any] struct {
	Queue string // with the codec's suffix, if any
	Name  string

	// MaxRetries is how often a failed run is repeated. Then the job is set aside with its error.
	MaxRetries int

	// RetryIn is the time from a failure to the next run. Zero means 30 seconds.
	RetryIn time.Duration

	// Defaults hold for each put, and give way to the options of the call.
	Defaults []PutOption
}

// Put puts a job of the task and returns its id.
func (t Task[T]) Put(ctx context.Context, jobs *Store, args T, options ...PutOption) (int64, error) {
	all := append([]PutOption{OfTask(t.Name), MaxAttempts(t.MaxRetries + 1)}, t.Defaults...)
	return jobs.Queue(t.Queue).Put(ctx, args, append(all, options...)...)
}

// OfTask makes the job one of the task of that name, for a caller who does not know its type.
func OfTask(name string) PutOption {
	return func(d *draft) error {
		if name == "" || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return fmt.Errorf("invalid task name %q: use a text in UTF-8 without NUL", name)
		}
		d.task = &name
		return nil
	}
}

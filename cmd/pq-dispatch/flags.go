// Values of flags, and of arguments, that are more than a text.

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// delay is a duration such as 30s or 1d12h, or 0.
type delay struct {
	time.Duration
	text         string // as given
	mayBeForever bool
}

func (d *delay) Type() string   { return "duration" }
func (d *delay) String() string { return d.text }

func (d *delay) Set(s string) (err error) {
	switch {
	case s == "0":
		d.Duration = 0
	case s == "forever" && d.mayBeForever:
		d.Duration = store.Forever
	default:
		if d.Duration, err = store.ParseDelay(s); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "store: "))
		}
	}
	d.text = s
	return nil
}

// positive is a whole number from 1.
type positive int

func (p *positive) Type() string { return "number" }

func (p *positive) String() string {
	if *p == 0 {
		return "" // none given
	}
	return strconv.Itoa(int(*p))
}

func (p *positive) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 31)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a whole number from 1", s)
	}
	*p = positive(n)
	return nil
}

// moment reads a point in time, absolute or from now by the database's clock, as an option of put: at
// or in, of the two that store has for the two kinds.
func moment(flag, s string, at func(time.Time) store.PutOption, in func(time.Duration) store.PutOption) (store.PutOption, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at(t), nil
	}
	d, err := store.ParseDelay(s)
	if err != nil {
		return nil, &usageError{fmt.Sprintf("--%s %q: give a time such as 2030-01-02T15:04:05Z, or a delay such as 30s, 5m, 1h or 2d", flag, s)}
	}
	return in(d), nil
}

// plainName refuses queue names that choose another encoding than JSON, the command line's only one.
func plainName(queue *store.Queue, given string) error {
	if err := queue.Err(); err != nil {
		return err
	}
	if suffix, ok := strings.CutPrefix(given, queue.Name()+"/"); ok && suffix != "json" {
		return &usageError{fmt.Sprintf("queue %q: the command line reads and writes plain JSON; leave out /%s", given, suffix)}
	}
	return nil
}

// Package top is the live view of the queues in a terminal: what waits, what runs and where, and how fast
// it goes. [Look] is one look at the database, [Text] one as plain text, [Run] the view itself.
//
//	look.go   what is asked of the database, and the rates
//	model.go  what the view knows and what keys do: the model of a bubbletea program
//	frame.go  what it looks like
//	table.go  columns that fit a width
package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// MinInterval is the shortest interval between two looks.
const MinInterval = 100 * time.Millisecond

// Options of Run. The terminal is given; the zero value of the rest is the default.
type Options struct {
	Input    io.Reader     // a terminal
	Output   io.Writer     // a terminal
	Interval time.Duration // from one look at the database to the next; 0: 2 s. It is longer where looks take long
	NoColor  bool          // bold and reverse stay
}

// Run shows the view until its user quits or ctx ends, whose cause it then returns. It leaves the terminal as it
// was. An error of the first look is returned; a later one is shown, and the look is repeated.
func Run(ctx context.Context, db querier, jobs *store.Store, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a look that is under way ends with the view
	first, err := Look(ctx, db, jobs)
	if err != nil {
		return err
	}
	m := newModel(&database{ctx, db, jobs}, o.Interval, first)
	options := []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithInput(o.Input), tea.WithOutput(o.Output),
		tea.WithoutSignalHandler(), // ctx ends by signals
		tea.WithEnvironment(os.Environ()),
	}
	if o.NoColor {
		options = append(options, tea.WithColorProfile(colorprofile.Ascii))
	}
	_, err = tea.NewProgram(m, options...).Run()
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case err != nil && !errors.Is(err, tea.ErrInterrupted):
		return fmt.Errorf("top: the terminal: %w", err)
	}
	return nil
}

// Text is a look as plain text, of the queues and then the dispatchers, in lines of up to that many columns.
func Text(g *Glance, width int) string {
	m := newModel(nil, 0, g)
	m.width = width
	var b strings.Builder
	for _, l := range m.report() {
		b.WriteString(strings.TrimRight(l.text, " "))
		b.WriteByte('\n')
	}
	return b.String()
}

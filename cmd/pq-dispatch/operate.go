// What retry, cancel, discard, move and purge have in common: the jobs are those whose ids are given, or all
// that the flags select.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// anyState is what --state takes beside the states.
const anyState = "all"

// stillStates are the states of jobs that do not run and have not ended elsewhere.
var stillStates = []store.State{store.Waiting, store.Scheduled, store.Retrying, store.SetAside}

// filterFlags select jobs.
type filterFlags struct {
	queue, state, task string
	olderThan          delay
	all                bool // --state takes anyState, too
}

func (f *filterFlags) register(a *app, cmd *cobra.Command, withQueue bool) {
	if withQueue {
		cmd.Flags().StringVar(&f.queue, "queue", "", "`name` of the queue")
		_ = cmd.RegisterFlagCompletionFunc("queue", a.completeQueue)
	}
	states := f.stateNames()
	cmd.Flags().StringVar(&f.state, "state", "", "`state`: "+strings.Join(states[:len(states)-1], ", ")+" or "+states[len(states)-1])
	_ = cmd.RegisterFlagCompletionFunc("state", func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return slices.DeleteFunc(f.stateNames(), func(name string) bool { return !strings.HasPrefix(name, prefix) }), cobra.ShellCompDirectiveNoFileComp
	})
	cmd.Flags().StringVar(&f.task, "task", "", "`name` of the task")
	cmd.Flags().Var(&f.olderThan, "older-than", "only jobs put, or if they are out of the queue taken out, that long ago, such as 7d")
}

// stateNames are the words that --state takes.
func (f *filterFlags) stateNames() (names []string) {
	for _, s := range store.States {
		names = append(names, string(s))
	}
	if f.all {
		names = append(names, anyState)
	}
	return names
}

func (f *filterFlags) given() bool {
	return f.queue != "" || f.state != "" || f.task != "" || f.olderThan.text != ""
}

// filter is for all of the flags but the state.
func (f *filterFlags) filter(jobs *store.Store) (store.Filter, error) {
	filter := store.Filter{Task: f.task, OlderThan: f.olderThan.Duration}
	if f.queue != "" {
		filter.Queue = jobs.Queue(f.queue)
		return filter, plainName(filter.Queue, f.queue)
	}
	return filter, nil
}

// states are those that --state means; otherwise is for none given.
func (f *filterFlags) states(otherwise []store.State) ([]store.State, error) {
	switch {
	case f.state == "":
		return otherwise, nil
	case f.state == anyState:
		return append(slices.Clip(stillStates), store.Taken), nil
	case !slices.Contains(f.stateNames(), f.state):
		return nil, f.badState()
	}
	return []store.State{store.State(f.state)}, nil
}

func (f *filterFlags) badState() error {
	return &usageError{fmt.Sprintf("--state %q: give one of %s", f.state, strings.Join(f.stateNames(), ", "))}
}

// operation is one run of such a command.
type operation struct {
	*app
	jobs    *store.Store
	op      store.Operation
	confirm bool // before all that are selected
	verb    string

	filterFlags
	dryRun, yes, asJSON bool
}

func (o *operation) register(a *app, cmd *cobra.Command, withQueue bool) {
	o.app = a
	o.all = true
	o.filterFlags.register(a, cmd, withQueue)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "count the jobs that the flags select, and do nothing")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print one JSON object for each id, or with the counts of all")
}

// run does it to the jobs with these ids, or to the selected ones, of these states if the flags name none.
func (o *operation) run(ctx context.Context, args []string, otherwise []store.State) error {
	switch {
	case len(args) > 0 && o.dryRun && !o.given():
		return &usageError{o.verb + ": --dry-run counts the jobs that flags select; it takes no ids"}
	case len(args) > 0 && o.given():
		return &usageError{o.verb + ": give the ids of jobs, or flags that select jobs, not both"}
	case len(args) == 0 && o.queue == "":
		return &usageError{o.verb + ": give the ids of jobs, or --queue and what else selects them"}
	case len(args) > 0:
		return o.byID(ctx, args)
	}
	states, err := o.states(otherwise)
	if err != nil {
		return err
	}
	return o.selected(ctx, states)
}

// refusals say why nothing was done to a job, and what to do about it.
var refusals = map[store.Outcome]string{
	store.Gone:       "there is no such job",
	store.IsRunning:  "it is running; 'pq-dispatch cancel' asks it to stop",
	store.IsWaiting:  "it is due already",
	store.IsTaken:    "a consumer of Python's pq has taken it",
	store.NotWaiting: "it is out of its queue already",
	store.RowLocked:  "someone else has locked its row; try again",
	store.Changed:    "it has changed at this moment; try again",
}

func (o *operation) byID(ctx context.Context, args []string) error {
	ids := make([]int64, len(args))
	for i, arg := range args {
		id, err := jobID(arg)
		if err != nil {
			return err
		}
		ids[i] = id
	}
	results, err := o.jobs.Operate(ctx, o.op, ids...)
	var refused []string
	for _, r := range results {
		if !r.Outcome.Done() {
			refused = append(refused, fmt.Sprintf("job %d: %s", r.ID, refusals[r.Outcome]))
		}
		if printErr := o.printResult(r); printErr != nil {
			return printErr
		}
	}
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%s: %s", o.verb, strings.Join(refused, "; "))
	}
	return err
}

func (o *operation) printResult(r store.Result) error {
	if o.asJSON {
		return printJSON(o.stdout, struct {
			ID      int64         `json:"id"`
			Outcome store.Outcome `json:"outcome"`
		}{r.ID, r.Outcome})
	}
	_, err := fmt.Fprintf(o.stdout, "%d %s\n", r.ID, r.Outcome)
	return err
}

func jobID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, &usageError{fmt.Sprintf("%q is not the id of a job: that is a whole number, as put and ls print it", s)}
	}
	return id, nil
}

// selected does it to all jobs that the flags select, or counts them.
func (o *operation) selected(ctx context.Context, states []store.State) error {
	filter, err := o.filter(o.jobs)
	if err != nil {
		return err
	}
	progress := progress{w: o.stderr, on: o.terminal}
	defer progress.end()
	if o.dryRun {
		n, err := o.count(ctx, filter, states, &progress, 0)
		if err != nil {
			return err
		}
		if o.asJSON {
			return printJSON(o.stdout, map[string]int{"selected": n})
		}
		_, err = fmt.Fprintln(o.stdout, someJobs(n))
		return err
	}
	if o.confirm && !o.yes {
		if err := o.ask(ctx, filter, states, &progress); err != nil {
			return err
		}
	}
	outcomes := map[store.Outcome]int{}
	done := 0
	for _, state := range states {
		filter.State = state
		for results, err := range o.jobs.OperateAll(ctx, o.op, filter) {
			for _, r := range results {
				outcomes[r.Outcome]++
			}
			done += len(results)
			progress.show(done)
			if err != nil {
				if done > 0 {
					err = fmt.Errorf("after %s: %w", someJobs(done), err)
				}
				return err
			}
		}
	}
	if o.asJSON {
		return printJSON(o.stdout, map[string]any{"outcomes": outcomes})
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 1, ' ', 0)
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		fmt.Fprintf(table, "%s\t%d\n", outcome, outcomes[outcome])
	}
	if len(outcomes) == 0 {
		fmt.Fprintln(table, "0 jobs")
	}
	return table.Flush()
}

func someJobs(n int) string {
	if n == 1 {
		return "1 job"
	}
	return fmt.Sprintf("%d jobs", n)
}

// count counts what is selected; limit, if any, is how far.
func (o *operation) count(ctx context.Context, filter store.Filter, states []store.State, progress *progress, limit int) (total int, err error) {
	for _, state := range states {
		filter.State = state
		counted := 0
		for n, err := range o.jobs.Count(ctx, filter) {
			if err != nil {
				return 0, err
			}
			counted = n
			progress.show(total + n)
			if limit > 0 && total+n > limit {
				return total + n, nil
			}
		}
		total += counted
	}
	return total, nil
}

// countForQuestion is how far the jobs are counted that a question is about.
const countForQuestion = 1_000_000

var errNotConfirmed = errors.New("not confirmed, nothing was done")

// ask has a person confirm, who sees how many jobs it is about.
func (o *operation) ask(ctx context.Context, filter store.Filter, states []store.State, progress *progress) error {
	if !o.terminal || !isTerminal(o.stdin) {
		return &usageError{o.verb + ": this deletes jobs: look with --dry-run, and confirm with --yes"}
	}
	n, err := o.count(ctx, filter, states, progress, countForQuestion)
	if err != nil || n == 0 {
		return err
	}
	number := strconv.Itoa(n)
	if n > countForQuestion {
		number = fmt.Sprintf("more than %d", countForQuestion)
	}
	progress.end()
	return o.question(ctx, fmt.Sprintf("%s %s jobs of %s?", o.verb, number, oneLine(o.queue)))
}

// question returns errNotConfirmed unless the answer is yes.
func (a *app) question(ctx context.Context, text string) error {
	fmt.Fprintf(a.stderr, "%s [y/N] ", text)
	answer, err := bufio.NewReader(&interruptibleReader{ctx: ctx, r: a.stdin}).ReadString('\n')
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		fmt.Fprintln(a.stderr) // the prompt's line has no end
	}
	return errNotConfirmed
}

// completionTimeout bounds what a key press waits for.
const completionTimeout = 2 * time.Second

// completeQueue completes the name of a queue that has a job, as the command line takes it: one with a slash in it
// needs a codec's suffix.
func (a *app) completeQueue(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	pool, jobs, err := a.open(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer pool.Close()
	names, err := jobs.QueueNames(ctx, 1000)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for i, name := range names {
		if strings.Contains(name, "/") {
			names[i] = name + "/json"
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, prefix) || cell(name) != name
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeFirstQueue does so for the first argument only.
func (a *app) completeFirstQueue(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeQueue(cmd, args, prefix)
}

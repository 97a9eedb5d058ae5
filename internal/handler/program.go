// The programs that run jobs: what they are, and the clean environment that they get.

package handler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Program is what is started to run jobs, and with what around it. Only Command is required.
type Program struct {
	// Command is the path of the program, absolute, and its arguments. No shell is involved.
	Command []string

	// Dir is where it is started, an absolute path. Empty means the root directory.
	Dir string

	// Env and, by their names, the variables of this process that are to be Inherited are all of the
	// environment that it gets, but for what is said about the job. Env comes first.
	Env     map[string]string
	Inherit []string

	// KillAfter is how long it has, when it was told to stop, until it is killed. When the
	// dispatcher stops it is at most 4 seconds, as that waits no longer for its handlers. Zero
	// means 10 seconds.
	KillAfter time.Duration

	// Groups is where its processes are entered, with what they start, for whoever has to kill all at once. Nil means a set
	// of the handler's own.
	Groups *group.Set
}

const (
	defaultKillAfter = 10 * time.Second

	// stoppingPatience is less than the 5 s that a stopping dispatcher waits for handlers whose
	// contexts have ended.
	stoppingPatience = 4 * time.Second
)

// variablePrefix is of the variables that are about the job, or about pq-dispatch itself: the database's
// address among them, which is no business of a program that runs jobs.
const variablePrefix = "PQ_DISPATCH_"

// protocolVariable tells a worker which protocol to speak.
const protocolVariable = variablePrefix + "PROTOCOL"

// Variables are the names of those that tell a program about its job, and how to speak about it.
func Variables() (names []string) {
	for _, f := range facts(&dispatcher.Job{Job: &store.Job{}}, 0) {
		names = append(names, variablePrefix+strings.ToUpper(f.name))
	}
	return append(names, protocolVariable)
}

// check says all that is wrong with a program, and fills in defaults.
func (p *Program) check() error {
	if p.Groups == nil {
		p.Groups = &group.Set{}
	}
	errs := []error{p.checkCommand(), atLeastZero("KillAfter", &p.KillAfter, defaultKillAfter)}
	if p.Dir == "" {
		p.Dir = string(filepath.Separator)
	} else if info, err := os.Stat(p.Dir); !filepath.IsAbs(p.Dir) || err != nil || !info.IsDir() {
		errs = append(errs, fmt.Errorf("the directory %q is not the absolute path of a directory", p.Dir))
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(p.Env)), p.Inherit) {
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			errs = append(errs, fmt.Errorf("%q is no name of a variable", name))
		case strings.HasPrefix(name, variablePrefix) || name == "TRACEPARENT" || name == "TRACESTATE":
			errs = append(errs, fmt.Errorf("the variable %s is set for each job, or not for programs at all; leave it out", name))
		case strings.Contains(p.Env[name], "\x00"):
			errs = append(errs, fmt.Errorf("the variable %s contains NUL", name))
		}
	}
	return errors.Join(errs...)
}

func (p *Program) checkCommand() error {
	if len(p.Command) == 0 || p.Command[0] == "" {
		return errors.New("the command is empty; give the absolute path of a program, and its arguments")
	}
	if !filepath.IsAbs(p.Command[0]) {
		return fmt.Errorf("the program %q is not an absolute path", p.Command[0])
	}
	if slices.ContainsFunc(p.Command, func(arg string) bool { return strings.Contains(arg, "\x00") }) {
		return errors.New("the command contains NUL")
	}
	if _, err := exec.LookPath(p.Command[0]); err != nil {
		return fmt.Errorf("the program cannot be run: %w", err)
	}
	return nil
}

// environment is what the program gets of it, whatever the job. It is read once: this process does not
// change its own.
func (p *Program) environment() []string {
	env := []string{}
	for _, name := range p.Inherit {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		env = append(env, name+"="+p.Env[name]) // of two with the same name os/exec takes the last
	}
	return env
}

// command is the program, to be started once.
func (p *Program) command(env ...[]string) *exec.Cmd {
	return &exec.Cmd{Path: p.Command[0], Args: p.Command, Dir: p.Dir, Env: slices.Concat(env...)}
}

// patience is how long a program has to stop once its run's context has ended, for the cause that it has.
func (p *Program) patience(run context.Context) time.Duration {
	switch context.Cause(run) {
	case dispatcher.ErrStopping:
		return min(p.KillAfter, stoppingPatience)
	case errClosed:
		return 0
	}
	return p.KillAfter
}

// Package child runs processes of this very program: started with settings on their standard input,
// listened to, and ended, each of them, whatever happens to their parent.
//
// A child reads its settings with [Settings], says what it has to say as JSON values on its standard
// output, and stops when its standard input ends: as it does when the parent lets go of it, or dies.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/group"
)

// maxSaid is how many bytes of what a process says on stderr are kept for an error.
const maxSaid = 4 << 10

// Process is a child as its parent sees it.
type Process struct {
	Name string

	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	stderr tail
	done   chan struct{} // closed when it has ended and was waited for
	err    error         // how; written before done is closed
}

// Event is what a child has said, or its end.
type Event[M any] struct {
	Process *Process
	Message M
	Ended   bool
}

// Group is some children whose messages are of type M. Start and Stop are for one goroutine. Someone
// has to receive the events until Stop is called, which has to be in the end.
type Group[M any] struct {
	Events chan Event[M]

	exec      []string
	patience  time.Duration
	processes []*Process
	running   sync.WaitGroup // the goroutines of processes
}

// NewGroup returns a group without children. exec starts the program up to the arguments of Start;
// a child that was told to stop is killed when that takes longer than patience.
func NewGroup[M any](exec []string, patience time.Duration) *Group[M] {
	return &Group[M]{Events: make(chan Event[M]), exec: exec, patience: patience}
}

// Start starts a process with these arguments more. Its settings, which have to fit into a pipe, are
// not among them: arguments are there for others to see, and an address may hold a password.
func (g *Group[M]) Start(name string, settings any, args ...string) (*Process, error) {
	argv := append(append([]string{}, g.exec...), args...)
	p := &Process{Name: name, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	group.Isolate(p.cmd)
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err == nil {
		p.stdout, err = p.cmd.StdoutPipe()
	}
	if err == nil {
		started := make(chan error)
		g.running.Go(func() { run(p, g.Events, started) })
		err = <-started
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	g.processes = append(g.processes, p)
	// An error is one of the process, which has ended; that comes as an event.
	_ = p.Tell(settings)
	return p, nil
}

// run starts the process and passes on what it says. On Linux the kernel ends a child when the
// *thread* that started it ends, so this goroutine keeps its thread for as long as the child lives.
func run[M any](p *Process, events chan<- Event[M], started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	decoder := json.NewDecoder(p.stdout)
	for {
		var m M
		if err = decoder.Decode(&m); err != nil {
			break
		}
		events <- Event[M]{Process: p, Message: m}
	}
	if !errors.Is(err, io.EOF) { // let it say the rest, whatever it is, so that it can end
		_, _ = io.Copy(io.Discard, p.stdout)
	}
	p.err = p.cmd.Wait()
	close(p.done)
	events <- Event[M]{Process: p, Ended: true}
}

// Await receives events until a message is what is waited for, or its judge has an error. A child that
// ends meanwhile is an error.
func (g *Group[M]) Await(ctx context.Context, enough func(M) (bool, error)) error {
	for {
		select {
		case e := <-g.Events:
			if e.Ended {
				return e.Process.Failure()
			}
			if done, err := enough(e.Message); done || err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Stop ends all children: it closes their standard input, which tells them to stop, and kills those that
// take too long. (A signal would tell them too, but not on every system.) It returns when all have
// ended, with the errors of those that did not end well; hear is given what they still say.
func (g *Group[M]) Stop(hear func(Event[M])) error {
	for _, p := range g.processes {
		_ = p.stdin.Close()
	}
	all := make(chan struct{})
	go func() {
		g.running.Wait()
		close(all)
	}()
	impatient := time.NewTimer(g.patience)
	defer impatient.Stop()
	var errs []error
	for {
		select {
		case e := <-g.Events:
			hear(e)
			if e.Ended && e.Process.err != nil {
				errs = append(errs, e.Process.Failure())
			}
		case <-impatient.C:
			for _, p := range g.processes {
				select {
				case <-p.done:
				default:
					p.Kill()
					errs = append(errs, fmt.Errorf("%s did not stop within %v and was killed", p.Name, g.patience))
				}
			}
		case <-all:
			return errors.Join(errs...)
		}
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Tell writes a value to the process's standard input. It waits when the pipe there is full.
func (p *Process) Tell(v any) error { return json.NewEncoder(p.stdin).Encode(v) }

// Kill ends the process at once, with those that it has started.
func (p *Process) Kill() { group.Kill(p.cmd.Process) }

// Err tells how the process ended. To be asked after its end: nil means well.
func (p *Process) Err() error { return p.err }

// Failure is the error of a process that ended, with what it said on stderr.
func (p *Process) Failure() error {
	err := p.err
	if err == nil {
		err = errors.New("ended before it was told to")
	}
	if said := strings.TrimSpace(p.stderr.String()); said != "" {
		return fmt.Errorf("%s: %w; it said:\n%s", p.Name, err, said)
	}
	return fmt.Errorf("%s: %w", p.Name, err)
}

// Settings reads, in the child, what it was started with. The context ends with ctx, and when stdin
// does; hear, unless nil, is called with each value that the parent tells meanwhile. A goroutine goes
// on reading stdin until it ends.
func Settings[S any](ctx context.Context, stdin io.Reader, s *S, hear func(json.RawMessage)) (context.Context, context.CancelFunc, error) {
	decoder := json.NewDecoder(stdin)
	if err := decoder.Decode(s); err != nil {
		return nil, nil, fmt.Errorf("this command is started by another one of this program; its settings on stdin: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			var told json.RawMessage
			if decoder.Decode(&told) != nil {
				return
			}
			if hear != nil {
				hear(told)
			}
		}
	}()
	return ctx, cancel, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if cut := len(t.text) - maxSaid; cut > 0 {
		t.text = append(t.text[:0], t.text[cut:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

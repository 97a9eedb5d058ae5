package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv makes the test binary a child, of the kind that it names.
const childEnv = "PQ_DISPATCH_CHILD_TEST"

type greeting struct{ Name string }

func TestMain(m *testing.M) {
	kind := os.Getenv(childEnv)
	if kind == "" {
		goleak.VerifyTestMain(m)
	}
	var g greeting
	out := json.NewEncoder(os.Stdout)
	ctx, cancel, err := Settings(context.Background(), os.Stdin, &g, func(told json.RawMessage) { _ = out.Encode(told) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer cancel()
	_ = out.Encode("hello " + g.Name)
	switch kind {
	case "fails":
		fmt.Fprintln(os.Stderr, "no luck")
		os.Exit(3)
	case "hangs":
		select {}
	case "babbles": // what is no message
		fmt.Println("{]" + strings.Repeat("x", 1<<20))
	}
	<-ctx.Done()
	_ = out.Encode("bye")
	os.Exit(0)
}

func start(t *testing.T, kind string, patience time.Duration) (*Group[string], *Process) {
	t.Helper()
	t.Setenv(childEnv, kind)
	g := NewGroup[string]([]string{os.Args[0]}, patience)
	p, err := g.Start("the child", greeting{"Ida"})
	if err != nil {
		t.Fatal(err)
	}
	return g, p
}

func await(t *testing.T, g *Group[string], want string) {
	t.Helper()
	if err := g.Await(t.Context(), func(m string) (bool, error) { return m == want, nil }); err != nil {
		t.Fatal(err)
	}
}

func TestChildHearsItsSettingsAndWhatItIsToldAndStopsInOrder(t *testing.T) {
	g, p := start(t, "listens", time.Minute)
	await(t, g, "hello Ida")
	if err := p.Tell("a word"); err != nil {
		t.Fatal(err)
	}
	await(t, g, "a word")
	var said []string
	if err := g.Stop(func(e Event[string]) {
		if !e.Ended {
			said = append(said, e.Message)
		}
	}); err != nil {
		t.Error(err)
	}
	if len(said) != 1 || said[0] != "bye" {
		t.Errorf("got %q while it stopped, want a bye", said)
	}
}

func TestChildThatHangsIsKilledAndSaidToBe(t *testing.T) {
	g, _ := start(t, "hangs", time.Millisecond)
	await(t, g, "hello Ida")
	if err := g.Stop(func(Event[string]) {}); err == nil || !strings.Contains(err.Error(), "the child did not stop within 1ms and was killed") {
		t.Errorf("got %v, want an error that says so", err)
	}
}

func TestChildThatFailsIsAnErrorWithWhatItSaid(t *testing.T) {
	g, p := start(t, "fails", time.Minute)
	err := g.Await(t.Context(), func(string) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "the child: exit status 3") || !strings.Contains(err.Error(), "no luck") || p.Err() == nil {
		t.Errorf("got %v, want how it ended and what it said", err)
	}
	if err := g.Stop(func(Event[string]) {}); err != nil {
		t.Errorf("got %v from Stop, want nil: the end was told already", err)
	}
}

func TestChildThatSaysWhatIsNoMessageCanStillEnd(t *testing.T) {
	g, p := start(t, "babbles", time.Minute)
	await(t, g, "hello Ida")
	if err := g.Stop(func(Event[string]) {}); err != nil || p.Err() != nil {
		t.Errorf("got %v, %v; want a good end", err, p.Err())
	}
}

func TestKilledChildIsAnEventAndTheOthersGoOn(t *testing.T) {
	g, one := start(t, "listens", time.Minute)
	two, err := g.Start("another", greeting{"Udo"})
	if err != nil {
		t.Fatal(err)
	}
	if one.PID() == two.PID() {
		t.Errorf("got the process id %d twice", one.PID())
	}
	one.Kill()
	for e := range g.Events {
		if e.Ended {
			if e.Process != one || one.Err() == nil {
				t.Errorf("got the end of %s, %v; want that of the killed one", e.Process.Name, e.Process.Err())
			}
			break
		}
	}
	if err := g.Stop(func(Event[string]) {}); err != nil || two.Err() != nil {
		t.Errorf("got %v, %v; want a good end of the other", err, two.Err())
	}
}

func TestAwaitEndsWithItsContextAndWithItsJudge(t *testing.T) {
	g, _ := start(t, "listens", time.Minute)
	wrong := errors.New("wrong word")
	if err := g.Await(t.Context(), func(string) (bool, error) { return false, wrong }); !errors.Is(err, wrong) {
		t.Errorf("got %v, want the judge's error", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(wrong)
	if err := g.Await(ctx, func(string) (bool, error) { return false, nil }); !errors.Is(err, wrong) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if err := g.Stop(func(Event[string]) {}); err != nil {
		t.Error(err)
	}
}

func TestProgramThatIsNotThereIsAnErrorThatNamesTheChild(t *testing.T) {
	g := NewGroup[string]([]string{"/nowhere/program"}, time.Minute)
	if _, err := g.Start("the child", nil); err == nil || !strings.Contains(err.Error(), "start the child") {
		t.Errorf("got %v, want an error that names it", err)
	}
	if err := g.Stop(func(Event[string]) {}); err != nil {
		t.Error(err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var kept tail
	for i := range 10000 {
		if n, err := kept.Write([]byte(strconv.Itoa(i) + "\n")); err != nil || n == 0 {
			t.Fatalf("got %d, %v", n, err)
		}
	}
	if got := kept.String(); len(got) != maxSaid || !strings.HasSuffix(got, "9998\n9999\n") {
		t.Errorf("got %d bytes that end in %q, want the last %d", len(got), got[len(got)-20:], maxSaid)
	}
}

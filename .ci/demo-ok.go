// demo-ok reads the summary that `pq-dispatch demo --json` prints and fails unless it tells of success.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	var summary struct {
		OK                                 bool `json:"ok"`
		Files, Put, Done, Lost, Duplicated *int
	}
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&summary); err != nil {
		fail("cannot read the summary: %v", err)
	}
	if decoder.More() {
		fail("more than one object on standard output")
	}
	for name, n := range map[string]*int{
		"files": summary.Files, "put": summary.Put, "done": summary.Done, "lost": summary.Lost, "duplicated": summary.Duplicated,
	} {
		if n == nil {
			fail("the summary has no %q", name)
		}
	}
	switch {
	case !summary.OK:
		fail("ok is false")
	case *summary.Files == 0 || *summary.Done < *summary.Files:
		fail("got %d jobs done of %d files, want all of some", *summary.Done, *summary.Files)
	case *summary.Lost != 0 || *summary.Duplicated != 0:
		fail("got %d jobs lost and %d duplicated, want none", *summary.Lost, *summary.Duplicated)
	}
	fmt.Printf("demo: %d files, %d jobs done, none lost, none twice\n", *summary.Files, *summary.Done)
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
	os.Exit(1)
}

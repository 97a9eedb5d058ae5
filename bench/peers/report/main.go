// Command report turns the results of a comparison into pages to read: Markdown with the tables, one HTML file that
// needs nothing else, and plots for the README. The same results give the same bytes.
//
//	go run ./report -in ../../docs/benchmarks/2026-11-22.json -out ../../docs/benchmarks
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

func main() {
	if err := command(os.Args[1:], os.Stdout, os.Stderr); errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func command(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(stderr)
	in := flags.String("in", "", "the `file` that peers run has written")
	out := flags.String("out", "", "the `directory` for the report; empty: that of the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *in == "" || flags.NArg() > 0 {
		return errors.New("name the results by -in FILE, and nothing else")
	}
	if *out == "" {
		*out = filepath.Dir(*in)
	}
	results, err := read(*in)
	if err != nil {
		return err
	}
	raw, err := between(*out, *in)
	if err != nil {
		return err
	}
	files, err := render(results, strings.TrimSuffix(filepath.Base(*in), ".json"), raw)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(*out, name)
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
		fmt.Fprintln(stdout, path)
	}
	return nil
}

// between is the link from a page in dir to a file.
func between(dir, file string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	link, err := filepath.Rel(dir, file)
	return filepath.ToSlash(link), err
}

func read(name string) (*result.Results, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var results result.Results
	if err := json.Unmarshal(text, &results); err != nil {
		return nil, fmt.Errorf("%s holds no results of peers run: %w", name, err)
	}
	return &results, nil
}

// render makes all files of the report, by name. name is what the names begin with; raw is where the results
// are, seen from the report.
func render(results *result.Results, name, raw string) (map[string][]byte, error) {
	c := newComparison(results)
	p := newPage(c, name, raw)
	files := map[string][]byte{}
	for _, plot := range plots(c) {
		svg, err := plot.svg()
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", plot.id, err)
		}
		files[name+"-"+plot.id+".svg"] = svg
		p.Plots = append(p.Plots, image{File: name + "-" + plot.id + ".svg", Alt: plot.title})
	}
	var err error
	if files[name+".md"], err = p.markdown(); err != nil {
		return nil, err
	}
	if files[name+".html"], err = p.html(); err != nil {
		return nil, err
	}
	return files, nil
}

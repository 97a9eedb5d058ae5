package config

// Loading: the file, the variables and the flags are trees, laid over the defaults one after the other.

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pq-dispatch/pq-dispatch/internal/handler"
)

// PathVariable names the file where no flag does.
const PathVariable = prefix + "CONFIG"

// anyURLVariable is the address of the last resort: many programs use it, so the file goes before.
const anyURLVariable = "DATABASE_URL"

// Load makes the configuration of a file, flags and variables (as os.Environ gives them). An empty path
// is no file; nil flags are none. Files that hold secrets are read as well, relative ones from the
// directory of the file that names them.
//
// The error is an [*Error] with all that is wrong; the configuration is then nil. Warnings come in both
// cases.
func Load(path string, flags *Flags, environ []string) (*Config, []Finding, error) {
	l := &loader{path: path, config: &Config{}, flags: flags}
	if l.flags == nil {
		l.flags = &Flags{}
	}
	l.config.origins = origins{file: path, at: map[string]Position{}}
	l.layer = map[string]int{}

	layers := [][]*node{l.file(), l.environment(environ), l.flags.nodes()}
	l.defaults(root(), reflect.ValueOf(l.config).Elem())
	// What holds for all queues comes from all layers before the first queue starts from it.
	for _, queues := range []bool{false, true} {
		for i, layer := range layers {
			l.current = i + 1
			for _, n := range layer {
				l.set(root(), "", reflect.ValueOf(l.config).Elem(), n.part(queues))
			}
		}
	}
	if len(l.wrong) == 0 { // else some values are missing for no other reason than that they are wrong
		l.readFiles()
		l.lastResort(environ)
	}
	if len(l.wrong) == 0 {
		l.check()
	}
	if len(l.wrong) == 0 {
		return l.config, l.warnings, nil
	}
	slices.SortStableFunc(l.wrong, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Where.Source, b.Where.Source), cmp.Compare(a.Where.Line, b.Where.Line), cmp.Compare(a.Where.Column, b.Where.Column))
	})
	return nil, l.warnings, &Error{l.wrong}
}

// origins remember where the values were given, by the path of their keys.
type origins struct {
	file string
	at   map[string]Position
}

type loader struct {
	path     string
	flags    *Flags
	config   *Config
	layer    map[string]int // that gave the value, by path
	current  int            // layer
	wrong    []Finding
	warnings []Finding
}

func (l *loader) fail(at Position, path, format string, args ...any) {
	l.wrong = append(l.wrong, Finding{at, path, fmt.Sprintf(format, args...)})
}

func (l *loader) warn(at Position, path, format string, args ...any) {
	l.warnings = append(l.warnings, Finding{at, path, fmt.Sprintf(format, args...)})
}

func (l *loader) file() []*node {
	if l.path == "" {
		return nil
	}
	source := l.path
	f, err := os.Open(l.path)
	if err != nil {
		l.fail(Position{}, "", "%v", err)
		return nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		l.fail(Position{}, "", "%v", err)
		return nil
	}
	n, wrong := parseYAML(source, strings.TrimPrefix(string(content), "\uFEFF"))
	switch {
	case wrong != nil:
		l.wrong = append(l.wrong, *wrong)
	case n.kind != null && n.kind != mapping:
		l.fail(n.at, "", "got %v; write keys and values, such as grace: 30s", n.kind)
	default:
		return []*node{n}
	}
	return nil
}

// foreign are variables of ours that are no keys: of the programs that jobs run, of tests, of the demo.
var foreign = append(handler.Variables(), PathVariable, prefix+"PG_BIN", prefix+"CACHE", prefix+"TEST_DATABASE_URL")

// kubernetes matches what Kubernetes adds for a service that is called pq-dispatch.
var kubernetes = regexp.MustCompile(`_(SERVICE_(HOST|PORT)|PORT)(_[A-Z0-9_]+)?$`)

func (l *loader) environment(environ []string) (nodes []*node) {
	given := map[string]string{}
	for _, variable := range environ {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, prefix) && value != "" {
			given[name] = value
		}
	}
	var known []string
	for k := range root().leaves() {
		for _, name := range k.variables {
			known = append(known, name)
			if value, ok := given[name]; ok {
				nodes = append(nodes, nest(strings.Split(k.path, "."), k.given(Position{Source: "$" + name}, value)))
			}
		}
	}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if _, ok := given[name]; ok && !slices.Contains(known, name) && !slices.Contains(foreign, name) && !kubernetes.MatchString(name) {
			l.warn(Position{Source: "$" + name}, "", "no such key, it is ignored%s", didYouMean(name, known))
		}
	}
	return nodes
}

// nest wraps a value into the mappings on the way to it.
func nest(names []string, n *node) *node {
	for _, name := range slices.Backward(names) {
		n = &node{kind: mapping, at: n.at, entries: []entry{{name, n.at, n}}}
	}
	return n
}

// part is the queues of a whole tree, or all else.
func (n *node) part(queues bool) *node {
	p := *n
	if queues {
		p.wrong = "" // said with all else
	}
	p.entries = slices.DeleteFunc(slices.Clone(n.entries), func(e entry) bool { return (e.key == "queues") != queues })
	return &p
}

// defaults puts the defaults of a struct's keys into it.
func (l *loader) defaults(k *key, v reflect.Value) {
	for _, c := range k.keys {
		field := v.FieldByIndex(c.field)
		switch {
		case c.fallback != nil:
			l.set(c, "", field, c.fallback)
		case field.Kind() == reflect.Struct:
			l.defaults(c, field)
		}
	}
}

// set lays a tree over a value. An empty path is that of the root, or of a default.
func (l *loader) set(k *key, path string, v reflect.Value, n *node) {
	if path != "" {
		l.config.origins.at[path] = n.at
		l.layer[path] = l.current
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(k.typ))
			l.defaults(k, v.Elem())
			if q, ok := reflect.TypeAssert[*Queue](v); ok {
				q.Defaults = l.config.Queue
			}
		}
		v = v.Elem()
	}
	switch {
	case n.wrong != "":
		l.fail(n.at, path, "%s", n.wrong)
	case k.scalar():
		if n.kind == null {
			l.fail(n.at, path, "no value is given; leave the key out to have the default")
		} else if err := k.parse(v, n); err != nil {
			l.fail(n.at, path, "%v", err)
		}
	case v.Kind() == reflect.Slice:
		l.setList(k, path, v, n)
	case n.kind != mapping && n.kind != null:
		l.fail(n.at, path, "got %v; write a mapping%s", n.kind, k.example())
	case v.Kind() == reflect.Map:
		l.setMap(k, path, v, n)
	default:
		l.setStruct(k, path, v, n)
	}
}

func (k *key) example() string {
	if k.keys == nil {
		return " of names to values"
	}
	return ", its keys are " + strings.Join(k.names(), ", ")
}

func (l *loader) setList(k *key, path string, v reflect.Value, n *node) {
	if n.kind != list {
		l.fail(n.at, path, "got %v; write a list, such as [a, b]", n.kind)
		return
	}
	v.Set(reflect.MakeSlice(k.typ, len(n.items), len(n.items)))
	for i, item := range n.items {
		if err := k.element.parse(v.Index(i), item); err != nil {
			l.fail(item.at, path, "item %d: %v", i+1, err)
		}
	}
}

func (l *loader) setMap(k *key, path string, v reflect.Value, n *node) {
	if v.IsNil() || n.replace {
		v.Set(reflect.MakeMap(k.typ))
		for p := range l.config.origins.at {
			if strings.HasPrefix(p, path+".") {
				delete(l.config.origins.at, p)
				delete(l.layer, p)
			}
		}
	}
	for e := range l.entries(path, n) {
		element := reflect.New(k.typ.Elem()).Elem()
		if before := v.MapIndex(reflect.ValueOf(e.key)); before.IsValid() {
			element.Set(before)
		}
		l.set(k.element, join(path, e.key), element, e.value)
		v.SetMapIndex(reflect.ValueOf(e.key), element)
	}
}

func (l *loader) setStruct(k *key, path string, v reflect.Value, n *node) {
	for e := range l.entries(path, n) {
		c := k.named(e.key)
		if c == nil {
			l.unknown(k, join(path, e.key), e)
			continue
		}
		l.set(c, join(path, e.key), v.FieldByIndex(c.field), e.value)
	}
	for _, c := range k.keys {
		if f := c.file(k); f != nil {
			l.oneOf(path, v, c, f)
		}
	}
}

// oneOf sees to it that a value and the file that holds it are not both given: of two layers the upper one
// counts, in one layer it is a mistake.
func (l *loader) oneOf(path string, v reflect.Value, value, file *key) {
	inValue, inFile := l.layer[join(path, value.name)], l.layer[join(path, file.name)]
	drop := value
	switch {
	case inValue == 0 || inFile == 0:
		return
	case inValue == inFile:
		at := join(path, file.name)
		l.fail(l.config.origins.at[at], at, "%s is given as well; leave one of them out", value.name)
	case inValue > inFile:
		drop = file
	}
	v.FieldByIndex(drop.field).SetZero()
	delete(l.config.origins.at, join(path, drop.name))
	delete(l.layer, join(path, drop.name))
}

// entries are the entries of a mapping, without those whose key came before.
func (l *loader) entries(path string, n *node) func(func(entry) bool) {
	return func(yield func(entry) bool) {
		seen := map[string]Position{}
		for _, e := range n.entries {
			if first, twice := seen[e.key]; twice {
				l.fail(e.at, join(path, shorten(e.key)), "given twice, first in line %d; keep one", first.Line)
				continue
			}
			seen[e.key] = e.at
			if !yield(e) {
				return
			}
		}
	}
}

func (l *loader) unknown(k *key, path string, e entry) {
	hint := didYouMean(e.key, k.names())
	if hint == "" {
		for c := range root().leaves() {
			if c.name == e.key {
				hint = fmt.Sprintf("; did you mean %s?", c.path)
				break
			}
		}
	}
	if hint == "" {
		hint = "; known here are " + strings.Join(k.names(), ", ")
	}
	l.fail(e.at, shorten(path), "unknown key%s", hint)
}

// shorten bounds a name from outside for a message.
func shorten(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}

// readFiles puts what the X_file keys name into their X.
func (l *loader) readFiles() {
	root().structs("", reflect.ValueOf(l.config).Elem(), func(k *key, path string, v reflect.Value) {
		for _, c := range k.keys {
			f := c.file(k)
			if f == nil {
				continue
			}
			name := v.FieldByIndex(f.field)
			if name.String() == "" {
				continue
			}
			at := l.config.origins.at[join(path, f.name)]
			if at.Source == l.path && !filepath.IsAbs(name.String()) {
				name.SetString(filepath.Join(filepath.Dir(l.path), name.String()))
			}
			if l.flags.Offline {
				continue
			}
			read := readSecrets
			if c.element == nil {
				read = func(name string) ([]string, error) {
					line, err := ReadSecret(name)
					return []string{line}, err
				}
			}
			lines, err := read(name.String())
			if err != nil {
				l.fail(at, join(path, f.name), "%v", err)
				continue
			}
			target := v.FieldByIndex(c.field)
			if c.element == nil {
				target.SetString(lines[0])
				continue
			}
			for _, line := range lines {
				target.Set(reflect.Append(target, reflect.ValueOf(Secret(line))))
			}
		}
	})
}

const maxSecret = 64 << 10 // bytes

// ReadSecret reads a file with one line, as the keys X_file name them. No error repeats any of it.
func ReadSecret(name string) (string, error) {
	lines, err := readSecrets(name)
	switch {
	case err != nil:
		return "", err
	case len(lines) > 1:
		return "", fmt.Errorf("%s has %d lines; write one", name, len(lines))
	}
	return lines[0], nil
}

// readSecrets reads the lines of a file, at least one. No error repeats any of them.
func readSecrets(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch s := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"); {
	case err != nil:
		return nil, err
	case len(s) > maxSecret:
		return nil, fmt.Errorf("%s has more than %d bytes; is it the right file?", name, maxSecret)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return nil, fmt.Errorf("%s is not plain UTF-8 text", name)
	case s == "":
		return nil, fmt.Errorf("%s is empty", name)
	default:
		lines := strings.Split(s, "\n")
		for i, line := range lines {
			if lines[i] = strings.TrimSuffix(line, "\r"); lines[i] == "" {
				return nil, errors.New(name + " has an empty line; take it out")
			}
		}
		return lines, nil
	}
}

// lastResort takes the database's address from $DATABASE_URL.
func (l *loader) lastResort(environ []string) {
	d := &l.config.Database
	if d.URL != "" || d.URLFile != "" {
		return
	}
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, anyURLVariable+"="); ok && value != "" {
			d.URL = Address(value)
			l.config.origins.at["database.url"] = Position{Source: "$" + anyURLVariable}
		}
	}
}

// structs calls f for v and every struct inside of it, outer ones and small names first.
func (k *key) structs(path string, v reflect.Value, f func(k *key, path string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			k.structs(path, v.Elem(), f)
		}
	case k.keys != nil:
		f(k, path, v)
		for _, c := range k.keys {
			c.structs(join(path, c.name), v.FieldByIndex(c.field), f)
		}
	case v.Kind() == reflect.Map && k.element.keys != nil:
		for _, name := range sortedKeys(v) {
			k.element.structs(join(path, name), v.MapIndex(reflect.ValueOf(name)), f)
		}
	}
}

func sortedKeys(m reflect.Value) (names []string) {
	for _, name := range m.MapKeys() {
		names = append(names, name.String())
	}
	slices.Sort(names)
	return names
}

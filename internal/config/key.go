package config

// The description of all keys, read once off the tags of the types. Whatever walks over the
// configuration walks over this: loading, flags, variables, printing, the schema, Diff.

import (
	"errors"
	"iter"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

type key struct {
	name, path string // path with * for the name of a queue
	doc        string
	fallback   *node // the default; nil: none
	min, max   string
	words      []string
	required   bool
	restart    bool
	flag       string // "": none; else without the dashes
	shared     bool   // the flag is the root command's
	variables  []string
	field      []int
	typ        reflect.Type
	keys       []*key // of a struct, in the order of its fields
	element    *key   // of a list or a map
}

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeSize     = reflect.TypeFor[Size]()
	typeSecret   = reflect.TypeFor[Secret]()
	typeAddress  = reflect.TypeFor[Address]()
	typeEndpoint = reflect.TypeFor[Endpoint]()
	typeHeaders  = reflect.TypeFor[Headers]()
)

// root is the description of a Config.
var root = sync.OnceValue(func() *key {
	k := &key{typ: reflect.TypeFor[Config]()}
	k.describe()
	return k
})

const prefix = "PQ_DISPATCH_"

// describe fills in what is inside of k.
func (k *key) describe() {
	switch k.typ.Kind() {
	case reflect.Pointer:
		k.typ = k.typ.Elem()
		k.describe()
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(k.typ) {
			name, tagged := f.Tag.Lookup("key")
			if !tagged {
				continue // what is embedded, or our own
			}
			k.keys = append(k.keys, k.child(name, f))
		}
	case reflect.Map, reflect.Slice:
		k.element = &key{path: k.path + ".*", typ: k.typ.Elem(), restart: k.restart}
		k.element.describe()
	}
}

func (k *key) child(name string, f reflect.StructField) *key {
	c := &key{
		name: name, path: join(k.path, name), doc: f.Tag.Get("doc"), field: f.Index, typ: f.Type,
		words: strings.Fields(f.Tag.Get("oneof")), required: f.Tag.Get("required") != "",
		restart: k.restart || f.Tag.Get("restart") != "",
	}
	c.min, c.max, _ = strings.Cut(f.Tag.Get("range"), "..")
	c.describe()
	if s := f.Tag.Get("default"); s != "" {
		c.fallback = c.given(Position{}, s)
	}
	// What belongs to one queue has no flag of its own: queues as a whole does, and --set.
	if c.keys == nil && !strings.Contains(c.path, "*") {
		c.flag, c.shared = f.Tag.Lookup("flag")
		if !c.shared {
			c.flag = c.path
		}
		if older := f.Tag.Get("env"); older != "" {
			c.variables = append(c.variables, older)
		}
		c.variables = append(c.variables, prefix+strings.ToUpper(strings.ReplaceAll(c.path, ".", "_")))
	}
	return c
}

// given is the tree of a text that a flag or a variable gives: the text itself for one value, YAML for
// lists and mappings. A mistake in it is found when it is used.
func (k *key) given(at Position, s string) *node {
	if k.scalar() {
		return &node{kind: word, at: at, text: s}
	}
	n, wrong := parseYAML(at.Source, s)
	if wrong != nil {
		return &node{at: wrong.Where, wrong: wrong.Text}
	}
	n.replace = true
	return n
}

func (k *key) scalar() bool { return k.keys == nil && k.element == nil }

// leaves are the keys that have a flag and a variable.
func (k *key) leaves() iter.Seq[*key] {
	return func(yield func(*key) bool) { k.visit(yield) }
}

func (k *key) visit(yield func(*key) bool) bool {
	for _, c := range k.keys {
		if c.flag != "" && !yield(c) || !c.visit(yield) {
			return false
		}
	}
	return true
}

func (k *key) named(name string) *key {
	for _, c := range k.keys {
		if c.name == name {
			return c
		}
	}
	return nil
}

// find returns the key at a path, or nil.
func (k *key) find(path string) *key {
	names, _, err := splitAssignment(path + "=")
	if err != nil {
		return nil
	}
	return k.inside(names)
}

// inside returns the key that the names lead to, or nil.
func (k *key) inside(names []string) *key {
	for _, name := range names {
		switch {
		case k == nil:
			return nil
		case k.keys != nil:
			k = k.named(name)
		default:
			k = k.element
		}
	}
	return k
}

func (k *key) names() (names []string) {
	for _, c := range k.keys {
		names = append(names, c.name)
	}
	return names
}

// file returns the key that names the file of k's value, if there is one beside it.
func (k *key) file(parent *key) *key {
	if k.typ != typeSecret && k.typ != typeAddress && (k.element == nil || k.element.typ != typeSecret) {
		return nil
	}
	return parent.named(k.name + "_file")
}

var bare = regexp.MustCompile(`^[A-Za-z0-9_/-]+$`)

// join adds a name to a path, in quotes where it would be read as several.
func join(path, name string) string {
	if !bare.MatchString(name) && name != "*" {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// splitAssignment reads a path, as join makes it, and the value behind it: queues.apples.timeout=5s.
func splitAssignment(s string) (names []string, value string, err error) {
	for rest := s; ; rest = rest[1:] {
		var name string
		if quoted, err := strconv.QuotedPrefix(rest); err == nil && rest[0] == '"' {
			name, _ = strconv.Unquote(quoted)
			rest = rest[len(quoted):]
		} else {
			end := strings.IndexAny(rest+"=", `.="`)
			name, rest = rest[:end], rest[end:]
		}
		switch {
		case name == "" || rest == "" || rest[0] != '.' && rest[0] != '=':
			return nil, "", errAssignment
		case rest[0] == '=':
			return append(names, name), rest[1:], nil
		}
		names = append(names, name)
	}
}

var errAssignment = errors.New(`write it as KEY=VALUE, such as queues.apples.timeout=30s; a name with dots stands in double quotes`)

package config

// The effective configuration as YAML and JSON, without its secrets.

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// String is the configuration as YAML, secrets masked.
func (c *Config) String() string { return c.YAML(false) }

// LogValue is the configuration for a log, secrets masked.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is the configuration as JSON, secrets masked.
func (c *Config) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := c.tree().json(&b)
	return b.Bytes(), err
}

// YAML is the configuration as YAML, secrets masked; with sources, a comment behind each value says where
// it was given.
func (c *Config) YAML(sources bool) string {
	var b strings.Builder
	y := yamlWriter{b: &b}
	if sources {
		y.comment = c.Source
	}
	y.mapping(c.tree(), "", "")
	return b.String()
}

// Sources says of every key that has a value where it was given.
func (c *Config) Sources() map[string]string {
	all := map[string]string{}
	c.tree().leaves("", func(path string) { all[path] = c.Source(path) })
	return all
}

// Source says where the value of a key was given: FILE:LINE:COLUMN, $VARIABLE, --flag, default, or the
// key that it was inherited from.
func (c *Config) Source(path string) string {
	for p := path; p != ""; p = parent(p) {
		at, ok := c.origins.at[p]
		// A list or a mapping of texts is the source of what is inside, a section is not.
		if k := root().find(p); ok && (p == path || k != nil && k.element != nil && k.element.scalar()) {
			return at.String()
		}
	}
	if inherited := c.inherited(path); inherited != "" {
		return inherited + ", " + c.Source(inherited)
	}
	return "default"
}

// inherited is the key of the section queue that a queue's key has its value from.
func (c *Config) inherited(path string) string {
	names, _, err := splitAssignment(path + "=")
	if err != nil || len(names) < 3 || names[0] != "queues" || c.Queues[names[1]] == nil {
		return ""
	}
	inherited := "queue." + strings.Join(names[2:], ".")
	if root().find(inherited) == nil {
		return ""
	}
	return inherited
}

// tree is the configuration as it may be shown.
func (c *Config) tree() *node { return root().show(reflect.ValueOf(c).Elem()) }

// show is a value as a tree, nil if it is none. What a file holds is not shown beside the file's name.
func (k *key) show(v reflect.Value) *node {
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return k.show(v.Elem())
	case k.scalar():
		return format(v)
	case v.Kind() == reflect.Slice:
		n := &node{kind: list}
		for i := range v.Len() {
			n.items = append(n.items, k.element.show(v.Index(i)))
		}
		return n
	}
	n := &node{kind: mapping}
	add := func(name string, value *node) {
		if value != nil {
			n.entries = append(n.entries, entry{key: name, value: value})
		}
	}
	if v.Kind() == reflect.Map {
		for _, name := range sortedKeys(v) {
			element := v.MapIndex(reflect.ValueOf(name))
			if k.typ == typeHeaders {
				add(name, &node{kind: text, text: showHeader(name, element.Interface().(Secret))})
				continue
			}
			add(name, k.element.show(element))
		}
		return n
	}
	for _, c := range k.keys {
		field := v.FieldByIndex(c.field)
		file := c.file(k)
		isFile := strings.HasSuffix(c.name, "_file")
		if file != nil && !v.FieldByIndex(file.field).IsZero() || isFile && field.IsZero() {
			continue
		}
		if field.IsZero() && (len(c.words) > 0 || field.Kind() == reflect.Map) {
			continue // nothing was chosen, nothing is in it
		}
		add(c.name, c.show(field))
	}
	return n
}

// leaves calls f with the path of every value that has none inside.
func (n *node) leaves(path string, f func(path string)) {
	if n.kind != mapping {
		f(path)
	}
	for _, e := range n.entries {
		e.value.leaves(join(path, e.key), f)
	}
}

func (n *node) json(b *bytes.Buffer) error {
	quote := func(s string) error {
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		err := e.Encode(s)
		b.Truncate(b.Len() - 1) // of the line
		return err
	}
	switch n.kind {
	case list, mapping:
		brackets := map[nodeKind]string{list: "[]", mapping: "{}"}[n.kind]
		b.WriteByte(brackets[0])
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := item.json(b); err != nil {
				return err
			}
		}
		for i, e := range n.entries {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := quote(e.key); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := e.value.json(b); err != nil {
				return err
			}
		}
		b.WriteByte(brackets[1])
	case text:
		return quote(n.text)
	default:
		b.WriteString(n.text)
	}
	return nil
}

type yamlWriter struct {
	b       *strings.Builder
	comment func(path string) string // nil: none
}

func (y *yamlWriter) mapping(n *node, path, indent string) {
	for _, e := range n.entries {
		inner := join(path, e.key)
		y.b.WriteString(indent + quoted(e.key) + ":")
		if e.value.kind == mapping && len(e.value.entries) > 0 {
			y.b.WriteString("\n")
			y.mapping(e.value, inner, indent+"  ")
			continue
		}
		y.b.WriteString(" " + e.value.flow())
		if y.comment != nil {
			y.b.WriteString(" # " + strings.ToValidUTF8(y.comment(inner), "?"))
		}
		y.b.WriteString("\n")
	}
}

// flow is a value in one line.
func (n *node) flow() string {
	switch n.kind {
	case mapping:
		return "{}" // others are not written in one line
	case list:
		var items []string
		for _, item := range n.items {
			items = append(items, item.flow())
		}
		return "[" + strings.Join(items, ", ") + "]"
	case text:
		return quoted(n.text)
	}
	return n.text
}

var (
	plain = regexp.MustCompile(`^[A-Za-z/]([A-Za-z0-9_./:@-]*[A-Za-z0-9_/])?$|^([0-9]+(\.[0-9]+)?(h|m|s|ms|µs|ns))+$|^[0-9]+(KiB|MiB|GiB|B)$`)
	// taken is what YAML, of whatever version, reads as something else than a text.
	taken = regexp.MustCompile(`(?i)^(true|false|null|yes|no|on|off|y|n)$`)
)

// quoted is a text as a scalar, in quotes where it needs them. YAML has the escapes of Go.
func quoted(s string) string {
	if plain.MatchString(s) && !taken.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

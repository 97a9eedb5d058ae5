package config

// The tree that a YAML text is: the one file that knows the YAML library. The flags, the variables and
// the printed configuration are such trees as well.

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

type nodeKind int

const (
	null nodeKind = iota
	text
	number
	boolean
	word // a scalar as a flag or a variable gives it: what it is, the key decides
	list
	mapping
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "a text", "a number", "true or false", "a word", "a list", "a mapping"}[k]
}

// node is a value and the place where it was given.
type node struct {
	kind    nodeKind
	at      Position
	text    string  // of a scalar, as written but for quotes
	items   []*node // of a list
	entries []entry // of a mapping, in the order given
	replace bool    // takes the place of a mapping given before instead of adding to it
	wrong   string  // why there is no value
}

type entry struct {
	key   string
	at    Position // of the key
	value *node
}

const (
	maxFile  = 1 << 20 // bytes; every queue of a large site fits many times
	maxDepth = 32      // of nesting; the deepest key stands at 5
)

// parseYAML reads a text with one document, or none. Positions name the source; line counts from 1.
func parseYAML(source, s string) (*node, *Finding) {
	wrong := func(line, column int, format string, args ...any) (*node, *Finding) {
		return nil, &Finding{Where: Position{source, line, column}, Text: fmt.Sprintf(format, args...)}
	}
	if len(s) > maxFile {
		return wrong(1, 1, "it has more than %d bytes; is it the right file?", maxFile)
	}
	if line, column, bad := unprintable(s); bad {
		return wrong(line, column, "a control character or invalid UTF-8; write the file as plain UTF-8 text")
	}
	if line, deep := tooDeep(s); deep {
		return wrong(line, 1, "nested more than %d deep", maxDepth)
	}
	file, err := parser.ParseBytes([]byte(s), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
			at := e.GetToken().Position
			return wrong(at.Line, at.Column, "not YAML: %s", e.GetMessage())
		}
		return wrong(1, 1, "not YAML: %v", err)
	}
	t := &translation{source: source, anchors: map[string]*node{}}
	root := &node{at: Position{source, 1, 1}}
	documents := 0
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if documents++; documents > 1 {
			at := d.Body.GetToken().Position
			return wrong(at.Line, at.Column, "a second document; write all into one, without ---")
		}
		root = t.node(d.Body, 0)
	}
	return root, t.wrong
}

// unprintable finds the first byte that YAML does not allow.
func unprintable(s string) (line, column int, found bool) {
	line, column = 1, 1
	for i, r := range s {
		switch {
		case r == '\n':
			line, column = line+1, 0
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"),
			r < ' ' && r != '\t' && r != '\r', r == 0x7f, r == '\uFEFF' && i > 0:
			return line, column, true
		}
		column++
	}
	return 0, 0, false
}

// tooDeep finds the line where far more brackets and dashes open, whatever they mean there, than any sensible
// text has. The parser is recursive, and takes time and memory with the square of the depth.
func tooDeep(s string) (line int, found bool) {
	const far = 30 * maxDepth
	depth := 0
	for text := range strings.Lines(s) {
		line++
		for _, r := range text {
			switch r {
			case '[', '{':
				depth++
			case ']', '}':
				depth--
			}
			if depth > far {
				return line, true
			}
		}
		if strings.Count(text, "- ") > far {
			return line, true
		}
	}
	return 0, false
}

// translation turns the library's tree into ours. It stops at the first thing that we do not have.
type translation struct {
	source  string
	anchors map[string]*node
	wrong   *Finding
}

func (t *translation) fail(at Position, format string, args ...any) *node {
	if t.wrong == nil {
		t.wrong = &Finding{Where: at, Text: fmt.Sprintf(format, args...)}
	}
	return &node{at: at}
}

func (t *translation) position(n ast.Node) Position {
	at := Position{Source: t.source, Line: 1, Column: 1}
	if token := n.GetToken(); token != nil && token.Position != nil {
		at.Line, at.Column = max(token.Position.Line, 1), max(token.Position.Column, 1)
	}
	return at
}

func (t *translation) node(n ast.Node, depth int) *node {
	if n == nil {
		return &node{at: Position{t.source, 1, 1}}
	}
	at := t.position(n)
	if depth > maxDepth {
		return t.fail(at, "nested more than %d deep", maxDepth)
	}
	scalar := func(kind nodeKind, s string) *node { return &node{kind: kind, at: at, text: s} }
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{at: at}
	case *ast.StringNode:
		return scalar(text, n.Value)
	case *ast.LiteralNode:
		return scalar(text, n.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar(number, n.GetToken().Value)
	case *ast.BoolNode:
		return scalar(boolean, n.GetToken().Value)
	case *ast.SequenceNode:
		l := &node{kind: list, at: at}
		for _, item := range n.Values {
			l.items = append(l.items, t.node(item, depth+1))
		}
		return l
	case *ast.MappingNode:
		m := &node{kind: mapping, at: at}
		for _, v := range n.Values {
			m.entries = append(m.entries, t.entry(v, depth))
		}
		if len(m.entries) > 0 {
			m.at = m.entries[0].at // the library has the colon's
		}
		return m
	case *ast.MappingValueNode:
		e := t.entry(n, depth)
		return &node{kind: mapping, at: e.at, entries: []entry{e}}
	case *ast.AnchorNode:
		v := t.node(n.Value, depth+1)
		t.anchors[n.Name.GetToken().Value] = v // only now: it cannot contain itself
		return v
	case *ast.AliasNode:
		v := t.anchors[n.Value.GetToken().Value]
		if v == nil {
			return t.fail(at, "no anchor &%.40s stands before this", n.Value.GetToken().Value)
		}
		return v
	}
	return t.fail(at, "%s is not used here; write the value itself", strings.ToLower(n.Type().YAMLName()))
}

func (t *translation) entry(v *ast.MappingValueNode, depth int) entry {
	at := t.position(v.Key)
	e := entry{at: at}
	switch key := v.Key.(type) {
	case *ast.MergeKeyNode:
		t.fail(at, "<< is not supported; what all queues share belongs in the section queue")
	default:
		k := t.node(key, depth+1)
		if k.kind == list || k.kind == mapping || k.kind == null {
			t.fail(at, "a key must be a word")
		}
		e.key = k.text
	}
	e.value = t.node(v.Value, depth+1)
	if e.value.kind == null {
		e.value.at = at
	}
	return e
}

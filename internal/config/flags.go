package config

// The keys as flags.

import (
	"reflect"
	"strings"

	"github.com/spf13/pflag"
)

// Flags are what a command line says about the configuration. The zero value says nothing.
type Flags struct {
	// Offline leaves the files unread that hold secrets: they may be on another machine.
	Offline bool

	set         *pflag.FlagSet
	assignments []string
}

// Register adds a flag for each key to the set, and --set for the keys of single queues. Once the set has
// been parsed, [Load] takes the values from it.
//
// The flags --database-url, --direct-url, --schema and --table are not added: all commands have them. They
// count if they are in the set.
func (f *Flags) Register(set *pflag.FlagSet) {
	f.set = set
	for k := range root().leaves() {
		if k.shared {
			continue
		}
		value := &flagValue{kind: k.word()}
		if k.fallback != nil {
			value.text = k.fallback.text
		}
		flag := set.VarPF(value, k.flag, "", k.usage())
		if k.word() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	set.StringArrayVar(&f.assignments, "set", nil, "set one key: `KEY=VALUE`, such as queues.apples.timeout=30s; may be repeated")
}

// word is the kind of value, for the help.
func (k *key) word() string {
	switch {
	case !k.scalar():
		return "yaml"
	case k.typ == typeDuration:
		return "duration"
	case k.typ == typeSize:
		return "size"
	case k.typ.Kind() == reflect.Bool:
		return "bool"
	case k.typ.Kind() == reflect.String:
		return "string"
	}
	return "number"
}

func (k *key) usage() string {
	usage := strings.TrimSuffix(k.doc, ".")
	if len(k.words) > 0 {
		usage += ": " + choice(k.words)
	}
	if strings.ToUpper(usage[:2]) == usage[:2] {
		return usage // it begins with a word in capitals
	}
	return strings.ToLower(usage[:1]) + usage[1:]
}

// flagValue is the text of a flag. What it means, Load finds out, as for the other sources.
type flagValue struct{ kind, text string }

func (v *flagValue) Set(s string) error { v.text = s; return nil }
func (v *flagValue) String() string     { return v.text }
func (v *flagValue) Type() string       { return v.kind }

// nodes are the flags that were given. --set comes last: it is the most precise.
func (f *Flags) nodes() (nodes []*node) {
	if f.set == nil {
		return nil
	}
	for k := range root().leaves() {
		if flag := f.set.Lookup(k.flag); flag != nil && flag.Changed {
			nodes = append(nodes, nest(strings.Split(k.path, "."), k.given(Position{Source: "--" + k.flag}, flag.Value.String())))
		}
	}
	for _, assignment := range f.assignments {
		at := Position{Source: "--set"}
		names, value, err := splitAssignment(assignment)
		if err != nil {
			nodes = append(nodes, &node{at: at, wrong: err.Error()})
			continue
		}
		k := root().inside(names)
		if k == nil {
			k = &key{} // Load says that there is none
		}
		nodes = append(nodes, nest(names, k.given(at, value)))
	}
	return nodes
}

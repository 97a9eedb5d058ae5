package config

// What a reload would change.

import (
	"reflect"
	"slices"
)

// Diff compares two configurations. It returns the paths of the keys that differ, in order: in live those
// that a running daemon can take over, in restart those that take effect when it starts again. A queue that came
// or went is one path, and so is a handler of another kind; a secret counts by its value, wherever it is from.
func Diff(before, after *Config) (live, restart []string) {
	root().differ("", reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem(), func(k *key, path string) {
		if k.restart {
			restart = append(restart, path)
		} else {
			live = append(live, path)
		}
	})
	return live, restart
}

func (k *key) differ(path string, a, b reflect.Value, found func(k *key, path string)) {
	switch {
	case a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
		k.differ(path, a.Elem(), b.Elem(), found)
	case a.Kind() == reflect.Struct:
		for _, c := range k.keys {
			c.differ(join(path, c.name), a.FieldByIndex(c.field), b.FieldByIndex(c.field), found)
		}
	case a.Kind() == reflect.Map:
		names := append(sortedKeys(a), sortedKeys(b)...)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			inA, inB := a.MapIndex(reflect.ValueOf(name)), b.MapIndex(reflect.ValueOf(name))
			if inA.IsValid() && inB.IsValid() {
				k.element.differ(join(path, name), inA, inB, found)
			} else {
				found(k, join(path, name))
			}
		}
	case a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0: // none given, or an empty one
	case !reflect.DeepEqual(a.Interface(), b.Interface()):
		found(k, path)
	}
}

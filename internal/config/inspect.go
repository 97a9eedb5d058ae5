package config

// What the machine has to have for a configuration to work.

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Inspect looks on this machine for what the configuration names: programs that can be run, directories,
// files with secrets that not everybody can read. It returns warnings, since all of it may change without the
// configuration.
func (c *Config) Inspect() (warnings []Finding) {
	warn := func(path, format string, args ...any) {
		warnings = append(warnings, Finding{c.origins.position(path), path, fmt.Sprintf(format, args...)})
	}
	program := func(path string, command []string, dir string) {
		if _, err := exec.LookPath(command[0]); err != nil {
			warn(path+".command", "it cannot be run: %v", err)
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			warn(path+".dir", "%s is not a directory", dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		path, q := join("queues", name), c.Queues[name]
		if q.Exec != nil {
			program(path+".exec", q.Exec.Command, q.Exec.Dir)
		}
		if q.Worker != nil {
			program(path+".worker", q.Worker.Command, q.Worker.Dir)
		}
	}
	inline := "" // a secret that stands in the file itself
	root().structs("", reflect.ValueOf(c).Elem(), func(k *key, path string, v reflect.Value) {
		for _, key := range k.keys {
			at := join(path, key.name)
			if file := key.file(k); file != nil {
				if name := v.FieldByIndex(file.field).String(); name != "" {
					if readByAll(name) {
						warn(join(path, file.name), "every user of this machine can read %s; chmod 600 it", name)
					}
					continue
				}
			}
			if field := v.FieldByIndex(key.field); holdsSecret(field) && c.origins.position(at).Source == c.origins.file {
				inline = cmp.Or(inline, at)
			}
		}
	})
	if inline != "" && c.origins.file != "" && readByAll(c.origins.file) {
		warn(inline, "every user of this machine can read %s, secrets included; chmod 600 it, or use the keys that end with _file", c.origins.file)
	}
	return warnings
}

// secretName matches names of variables and headers whose values are secret as a rule.
var secretName = regexp.MustCompile(`(?i)auth|cookie|credential|key|pass|secret|token`)

// holdsSecret tells whether a value is, or has in it, what others must not read.
func holdsSecret(v reflect.Value) bool {
	switch x := v.Interface().(type) {
	case Secret:
		return x != ""
	case Address:
		return strings.Contains(x.String(), mask)
	case Endpoint:
		return strings.Contains(x.String(), mask)
	case []Secret:
		return len(x) > 0
	case Env:
		return slices.ContainsFunc(slices.Collect(maps.Keys(x)), secretName.MatchString)
	case Headers:
		return slices.ContainsFunc(slices.Collect(maps.Keys(x)), secretName.MatchString)
	}
	return false
}

func readByAll(name string) bool {
	info, err := os.Stat(name)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&fs.FileMode(0o004) != 0
}

package config

// The JSON Schema of the file, for editors.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Schema is the JSON Schema (draft 2020-12) of the configuration file. It knows what each key may be; what
// keys must be to each other, only [Load] does, but for what can be said simply.
func Schema() []byte {
	s := root().schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "pq-dispatch.yaml"
	s["description"] = "Configuration of pq-dispatch run."
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		panic("config: schema: " + err.Error()) // it is made of texts and maps
	}
	return b.Bytes()
}

type object = map[string]any

const (
	// As parseDuration and parseSize read them.
	durationPattern = `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(d|h|m|s|ms|us|µs|ns)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(d|h|m|s|ms|us|µs|ns))*)$`
	sizePattern     = `^[0-9]+(B|KiB|MiB|GiB)?$`
)

func (k *key) schema() object {
	s := k.shape()
	if k.doc != "" {
		s["description"] = k.doc
		if k.min != "" {
			s["description"] = strings.TrimSuffix(k.doc, ".") + fmt.Sprintf(". Allowed is%s.", k.bounds())
		}
	}
	if k.fallback != nil {
		s["default"] = json.RawMessage(k.asJSON(k.fallback))
	}
	return s
}

func (k *key) shape() object {
	switch {
	case k.keys != nil:
		return k.objectSchema()
	case k.typ.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": k.element.schema()}
	case k.typ.Kind() == reflect.Slice:
		s := object{"type": "array", "items": k.element.schema()}
		if k.required {
			s["minItems"] = 1
		}
		return s
	case k.typ == typeDuration:
		return object{"type": []string{"string", "integer"}, "pattern": durationPattern, "maximum": 0, "minimum": 0}
	case k.typ == typeSize:
		return object{"type": []string{"string", "integer"}, "pattern": sizePattern, "minimum": 0}
	case len(k.words) > 0:
		return object{"enum": k.words}
	}
	kind := map[reflect.Kind]string{reflect.Bool: "boolean", reflect.Int: "integer", reflect.Float64: "number"}[k.typ.Kind()]
	if kind == "" {
		return object{"type": []string{"string", "number", "boolean"}} // as it is written
	}
	s := object{"type": kind}
	if k.min != "" {
		s["minimum"] = json.RawMessage(k.min)
	}
	if k.max != "" {
		s["maximum"] = json.RawMessage(k.max)
	}
	return s
}

func (k *key) objectSchema() object {
	properties := object{}
	var required []string
	var exclusive []object
	for _, c := range k.keys {
		properties[c.name] = c.schema()
		if c.required {
			required = append(required, c.name)
		}
		if file := c.file(k); file != nil {
			exclusive = append(exclusive, object{"not": object{"required": []string{c.name, file.name}}})
		}
	}
	s := object{"type": "object", "additionalProperties": false, "properties": properties}
	if required != nil {
		s["required"] = required
	}
	if exclusive != nil {
		s["allOf"] = exclusive
	}
	if k.typ == reflect.TypeFor[Queue]() {
		var handlers []object
		for _, name := range []string{"http", "exec", "worker"} {
			handlers = append(handlers, object{"required": []string{name}})
		}
		s["oneOf"] = handlers
	}
	return s
}

// asJSON is a default as JSON.
func (k *key) asJSON(n *node) []byte {
	v := reflect.New(k.typ).Elem()
	(&loader{config: &Config{}}).set(k, "", v, n)
	var b bytes.Buffer
	if err := k.show(v).json(&b); err != nil {
		panic("config: default of " + k.path + ": " + err.Error())
	}
	return b.Bytes()
}

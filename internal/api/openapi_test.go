package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// openAPI is the document, as the tests look things up in it.
type openAPI struct {
	root  map[string]any
	paths *http.ServeMux // that finds the path of a request

	mu      sync.Mutex // for the compiler, which remembers
	schemas *jsonschema.Compiler
}

var documented = sync.OnceValue(func() *openAPI {
	var root any
	must(yaml.Unmarshal(openapi, &root))
	text, err := json.Marshal(root)
	must(err)
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	must(err)
	d := &openAPI{root: plain.(map[string]any), schemas: jsonschema.NewCompiler(), paths: http.NewServeMux()}
	d.schemas.AssertFormat()
	must(d.schemas.AddResource("openapi.json", plain))
	for path := range d.root["paths"].(map[string]any) {
		d.paths.Handle(path, http.NotFoundHandler())
	}
	return d
})

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// place is one in the document, as the names that lead there.
type place []string

// value is what stands there, and where it really stands: references are followed on the way.
func (p place) value() (any, place) {
	var at place
	var v any = documented().root
	for i := 0; ; i++ {
		if object, is := v.(map[string]any); is {
			if to, is := object["$ref"].(string); is && len(object) == 1 {
				var names place
				for name := range strings.SplitSeq(strings.TrimPrefix(to, "#/"), "/") {
					names = append(names, strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
				}
				v, at = names.value()
			}
		}
		if i == len(p) {
			return v, at
		}
		at = append(slices.Clone(at), p[i])
		switch parent := v.(type) {
		case map[string]any:
			v = parent[p[i]]
		case []any:
			var n int
			fmt.Sscan(p[i], &n)
			v = parent[n]
		default:
			v = nil
		}
	}
}

func (p place) object() map[string]any {
	v, _ := p.value()
	object, _ := v.(map[string]any)
	return object
}

func (p place) under(names ...string) place { return append(slices.Clone(p), names...) }

// validate checks a value against the schema at the place.
func (p place) validate(v any) error {
	_, at := p.value()
	pointer := ""
	for _, name := range at {
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(name)
	}
	d := documented()
	d.mu.Lock()
	schema, err := d.schemas.Compile("openapi.json#" + pointer)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// checkDocumented fails the test if the answer is not one that the document has for the request.
func checkDocumented(t testing.TB, r *http.Request, got response) {
	t.Helper()
	problem := place{"components", "schemas", "Problem"}
	_, path := documented().paths.Handler(r)
	method := strings.ToLower(strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1))
	operation := place{"paths", path, method}
	if path == "" || operation.object() == nil { // no such path, or method
		if got.status == http.StatusNoContent && r.Method == http.MethodOptions {
			return
		}
		if err := problem.validate(any(got.body)); err != nil || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: got %v, want a problem: %v", r.Method, r.URL, got, err)
		}
		return
	}
	answer := operation.under("responses", fmt.Sprint(got.status))
	if answer.object() == nil {
		t.Errorf("%s %s: got %v, which is not documented", r.Method, path, got)
		return
	}
	for name := range answer.under("headers").object() {
		if got.header.Get(name) == "" {
			t.Errorf("%s %s: got %v without the header %s, which is documented", r.Method, path, got, name)
		}
	}
	content := answer.under("content", got.header.Get("Content-Type"))
	switch {
	case content.object() == nil:
		t.Errorf("%s %s: got %v as %q, which is not documented", r.Method, path, got, got.header.Get("Content-Type"))
	case content.under("schema").object() != nil:
		if err := content.under("schema").validate(any(got.body)); err != nil {
			t.Errorf("%s %s: got %v, which is not as documented: %v", r.Method, path, got, err)
		}
	}
	if code, is := got.body["code"].(string); is {
		codes := answer.object()["description"].(string)
		if !slices.Contains(strings.Split(codes, ", "), code) {
			t.Errorf("%s %s: got the code %s, documented for %d are %s", r.Method, path, code, got.status, codes)
		}
		if fmt.Sprint(got.body["status"]) != fmt.Sprint(got.status) {
			t.Errorf("%s %s: got the status %d, and %v in the body", r.Method, path, got.status, got.body["status"])
		}
	}
}

func TestEveryRouteIsDocumentedAndViceVersa(t *testing.T) {
	served := map[string][]string{}
	for _, r := range new(api).routes() {
		served[r.method+" "+r.path] = slices.Sorted(slices.Values(r.parameters))
	}
	found := map[string][]string{}
	for path, item := range (place{"paths"}).object() {
		for method := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			parameters := []string{}
			list, _ := place{"paths", path, method, "parameters"}.value()
			some, _ := list.([]any)
			for i := range some {
				parameter := place{"paths", path, method, "parameters", fmt.Sprint(i)}.object()
				if parameter["in"] == "query" {
					parameters = append(parameters, parameter["name"].(string))
				}
			}
			slices.Sort(parameters)
			found[strings.ToUpper(method)+" "+path] = parameters
		}
	}
	for route, parameters := range served {
		if parameters == nil {
			served[route] = []string{}
		}
	}
	if diff := cmp.Diff(served, found); diff != "" {
		t.Errorf("the routes and the document differ (-routes +document):\n%s", diff)
	}
}

func TestEveryProblemIsDocumentedAndViceVersa(t *testing.T) {
	var served, found []string
	for _, k := range kinds {
		served = append(served, k.code)
	}
	for _, code := range (place{"components", "schemas", "Problem", "properties", "code"}).object()["enum"].([]any) {
		found = append(found, code.(string))
	}
	if diff := cmp.Diff(served, found); diff != "" {
		t.Errorf("the problems and the document differ (-kinds +document):\n%s", diff)
	}
}

// examples calls do with each example at or below the place, and the schema for it.
func examples(t *testing.T, at place, do func(at place, example any)) {
	v, _ := at.value()
	switch v := v.(type) {
	case map[string]any:
		if _, is := v["schema"]; is {
			if example, is := v["example"]; is {
				do(at.under("schema"), example)
			}
			some, _ := v["examples"].(map[string]any)
			for _, example := range some {
				do(at.under("schema"), example.(map[string]any)["value"])
			}
			return
		}
		for name := range v {
			examples(t, at.under(name), do)
		}
	case []any:
		for i := range v {
			examples(t, at.under(fmt.Sprint(i)), do)
		}
	}
}

func TestTheExamplesOfTheDocumentAreAsItsSchemas(t *testing.T) {
	n := 0
	for _, name := range []string{"paths", "components"} {
		examples(t, place{name}, func(at place, example any) {
			n++
			if err := at.validate(example); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		})
	}
	if n < 30 {
		t.Errorf("got %d examples, want more: is the document read?", n)
	}
}

func TestEveryObjectOfAnAnswerHasAnExample(t *testing.T) {
	for path, item := range (place{"paths"}).object() {
		for method := range item.(map[string]any) {
			for status := range (place{"paths", path, method, "responses"}).object() {
				media := place{"paths", path, method, "responses", status, "content", "application/json"}.object()
				if media != nil && media["example"] == nil {
					t.Errorf("%s %s %s has no example", method, path, status)
				}
			}
		}
	}
}

// The requests of the document are answered as it says they are.
func TestTheExamplesOfRequestsAreServed(t *testing.T) {
	s := start(t)
	for path, item := range (place{"paths"}).object() {
		for method := range item.(map[string]any) {
			body := place{"paths", path, method, "requestBody", "content", "application/json"}
			examples(t, body, func(_ place, example any) {
				text, err := json.Marshal(example)
				check(t, err)
				id := s.put("apples", `{"data": 1, "delay": "1h"}`)
				url := strings.NewReplacer("{queue}", "apples", "{id}", id).Replace(path)
				got := s.ask(strings.ToUpper(method), url, string(text))
				if got.status/100 != 2 {
					t.Errorf("%s %s %s: got %v, want success", method, url, text, got)
				}
			})
		}
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	s := start(t)
	got := s.ask("GET", "/api/v1/openapi.yaml", "")
	if got.status != http.StatusOK || got.text != string(openapi) || got.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("got %d %v and %d bytes, want the document", got.status, got.header, len(got.text))
	}
}

// All that a put takes, the document allows, and what it takes is what was sent.
func FuzzPut(f *testing.F) {
	for _, body := range []string{
		`{"data": 1}`, `{"data": null, "delay": "1d12h", "task": "eat", "max_attempts": 3}`, `{"data":{"a":[1e999, 12345678901234567890]}}`,
		`{"data": 1, "schedule_at": "2030-01-02T15:04:05.5+01:00", "expected_at": "0001-01-01T00:00:00Z"}`,
		`{"data": 1, "data": 2}`, `{"DATA": 1}`, `{"data": 1} x`, `[]`, ``, `{"data": 1, "delay": ""}`, `{"data": 1, "task": "\u0000"}`,
		`{"data": 1, "delay": "5m", "schedule_at": "2030-01-02T15:04:05Z"}`, "{\"data\": \"\xff\"}", `{"data": "\ud800"}`, `{"max_attempts": 1.0}`,
		strings.Repeat("[", 20000), `{"data":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`,
	} {
		f.Add(body)
	}
	put := place{"components", "schemas", "Put"}
	known := slices.Sorted(maps.Keys(new(draft).fields()))
	f.Fuzz(func(t *testing.T, body string) {
		r := &request{Request: httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody), body: []byte(body)}
		var data json.RawMessage
		options, err := r.readPut(&data, "any")
		if err != nil {
			p := problemOf(err, "POST")
			if p.Status/100 != 4 || p.Detail == "" {
				t.Errorf("%q: got %v, want a problem of the caller's", body, p)
			}
			return
		}
		if data == nil {
			return // refused by put
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatalf("%q was taken: %v", body, err)
		}
		if err := put.validate(value); err != nil {
			t.Errorf("%q was taken: %v", body, err)
		}
		sent := value.(map[string]any)
		given := 0
		for _, name := range known {
			if sent[name] != nil {
				given++
			}
		}
		if given != len(options) {
			t.Errorf("%q: got %d options, want %d", body, len(options), given)
		}
		kept, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil || !reflect.DeepEqual(kept, sent["data"]) {
			t.Errorf("%q: got the data %s, want %v", body, data, sent["data"])
		}
	})
}

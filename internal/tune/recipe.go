// What to write down to have a setting: the daemon's configuration, or the options of a program.

package tune

import (
	"fmt"
	"strings"
	"text/template"
	"unicode"
)

// Recipe is a setting for those who apply it.
type Recipe struct {
	Setting
	Command []string // that runs the jobs; nil: a place is left for the user's handler
}

var funcs = template.FuncMap{"flow": flow}

// flow is a list as YAML. (JSON, which YAML could read, leaves control characters as they are that YAML forbids.)
func flow(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		var b strings.Builder
		for _, r := range word {
			switch {
			case r == '"' || r == '\\':
				b.WriteString(`\` + string(r))
			case unicode.IsPrint(r):
				b.WriteRune(r)
			default:
				fmt.Fprintf(&b, `\U%08x`, r)
			}
		}
		quoted[i] = `"` + b.String() + `"`
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

var asYAML = template.Must(template.New("YAML").Funcs(funcs).Parse(
	`# For pq-dispatch run -c FILE{{if gt .Processes 1}}, in {{.Processes}} processes{{end}}.
{{- if .Connections}}
# Add pool_max_conns={{.Connections}} to the address of the database.
{{- end}}
concurrency: {{.Concurrency}}
queue:
  prefetch: {{.Prefetch}}{{if eq .Prefetch 0}} # as the handling rate says{{else if lt .Prefetch 0}} # none{{end}}
queues:
  jobs: # the name of your queue
{{- if .Command}}
    exec:
      command: {{flow .Command}}
{{- else}}
    http: # or another handler
      url: http://127.0.0.1:8080/jobs
{{- end}}
`))

var asGo = template.Must(template.New("Go").Parse(
	`{{if gt .Processes 1}}// In each of {{.Processes}} processes.
{{end}}{{if .Connections}}poolConfig.MaxConns = {{.Connections}}
{{end}}d := dispatcher.New(jobs, dispatcher.Options{
	Concurrency: {{.Concurrency}},
{{- if .Prefetch}}
	Queue:       dispatcher.QueueOptions{Prefetch: {{.Prefetch}}},
{{- end}}
})
`))

// YAML is a configuration of the daemon that it starts with.
func (r Recipe) YAML() string { return r.render(asYAML) }

// Go is some statements: jobs is the store, poolConfig the configuration of its pool.
func (r Recipe) Go() string { return r.render(asGo) }

func (r Recipe) render(t *template.Template) string {
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		panic(err) // of a template of our own, into memory
	}
	return b.String()
}

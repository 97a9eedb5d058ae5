package config

// What the values must be to each other, and what they must be beyond their types.

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/handler"
	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// failAt is fail at the place where the key was given, or what it is in.
func (l *loader) failAt(path, format string, args ...any) {
	l.fail(l.config.origins.position(path), path, format, args...)
}

func (l *loader) warnAt(path, format string, args ...any) {
	l.warn(l.config.origins.position(path), path, format, args...)
}

// position is the place where a key was given, or the nearest around it.
func (o origins) position(path string) Position {
	for ; path != ""; path = parent(path) {
		if at, ok := o.at[path]; ok {
			return at
		}
	}
	return Position{Source: o.file}
}

// parent is a path without its last name.
func parent(path string) string {
	if strings.HasSuffix(path, `"`) { // a quoted name may have dots
		for i := strings.LastIndex(path, `."`); i > 0; i = strings.LastIndex(path[:i], `."`) {
			if _, err := strconv.Unquote(path[i+1:]); err == nil {
				return path[:i]
			}
		}
		return ""
	}
	return path[:max(strings.LastIndexByte(path, '.'), 0)]
}

func (l *loader) check() {
	c := l.config
	l.checkRequired()
	l.checkAddress("database.url", c.Database.URL)
	l.checkAddress("database.direct_url", c.Database.DirectURL)
	if err := (sql.Names{Schema: c.Database.Schema}).Validate(); err != nil {
		l.failAt("database.schema", "%v", err)
	}
	if err := (sql.Names{Table: c.Database.Table}).Validate(); err != nil {
		l.failAt("database.table", "%v", err)
	}
	l.checkListener()
	l.checkRetry("queue.retry", c.Queue.Retry)

	if len(c.Queues) == 0 {
		l.failAt("queues", "no queue is given; name one, and its handler, as in queues: {apples: {exec: {command: [/usr/bin/eat]}}}")
	}
	spellings := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		path, q := join("queues", name), c.Queues[name]
		queue := anyStore.Queue(q.Name(name))
		if err := queue.Err(); err != nil {
			l.failAt(path, "%s", strings.TrimPrefix(err.Error(), "store: "))
		} else if other, taken := spellings[queue.Name()]; taken {
			l.failAt(path, "this is the queue %q again; keep one of them", other)
		}
		spellings[queue.Name()] = name
		l.checkQueue(path, name, q)
	}
}

// Name is the name that the store knows the queue by: the one in the file, and the codec's suffix.
func (q *Queue) Name(name string) string {
	if q.Codec == "" || strings.HasSuffix(name, "/"+q.Codec) {
		return name
	}
	return name + "/" + q.Codec
}

// TableName is the queue's name in the table, without a codec's suffix.
func (q *Queue) TableName(name string) string { return anyStore.Queue(q.Name(name)).Name() }

// anyStore reads the names of queues, as each store does.
var anyStore = store.New(nil, store.Options{})

func (l *loader) checkRequired() {
	root().structs("", reflect.ValueOf(l.config).Elem(), func(k *key, path string, v reflect.Value) {
		for _, c := range k.keys {
			if field := v.FieldByIndex(c.field); c.required && (field.IsZero() || c.element != nil && field.Len() == 0) {
				l.failAt(path, "%s is missing; %s", c.name, strings.ToLower(c.doc[:1])+c.doc[1:])
			}
		}
	})
}

// checkAddress says what is wrong with an address and repeats no part of it: in one whose password is
// not encoded, the password may stand where any other part does.
func (l *loader) checkAddress(path string, a Address) {
	if a == "" {
		return
	}
	c, err := pgx.ParseConfig(a.Reveal())
	if err == nil {
		if c.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
			l.failAt(path, "the simple protocol is not supported; behind a pooler use default_query_exec_mode=exec")
		}
		return
	}
	reason := ""
	if parse, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		if whole := parse.Error(); strings.Contains(whole, "`: ") { // cannot parse `address`: reason
			reason = whole[strings.LastIndex(whole, "`: ")+1:]
		}
	}
	l.failAt(path, "it cannot be read%s; write it as postgres://user:password@host:5432/database, with special characters in the password percent-encoded", reason)
}

func (l *loader) checkListener() {
	h := l.config.HTTP
	host, port, err := net.SplitHostPort(h.Address)
	_, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case h.Address == "":
		for path, wanted := range map[string]bool{"http.pprof": h.Pprof, "http.api.enabled": h.API.Enabled} {
			if wanted {
				l.failAt(path, "there is no listener; give http.address, such as 127.0.0.1:9464")
			}
		}
	case err != nil || portErr != nil:
		l.failAt("http.address", "got %.60q; write HOST:PORT, such as 127.0.0.1:9464, or :9464 for all addresses", h.Address)
	case h.Pprof && host != "localhost" && !net.ParseIP(host).IsLoopback():
		l.warnAt("http.pprof", "whoever reaches %s can read profiles, without a token", h.Address)
	}
	token := h.API.Token.Reveal()
	switch {
	case h.API.Enabled && token == "" && h.API.TokenFile == "":
		l.failAt("http.api.enabled", "the API needs a token; give http.api.token or http.api.token_file")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		l.failAt("http.api.token", "it has spaces or characters that are not ASCII; use letters and digits, as from openssl rand -hex 32")
	case token != "" && len(token) < 16:
		l.warnAt("http.api.token", "it is short enough to be guessed; use 32 characters, as from openssl rand -hex 16")
	}
}

func (l *loader) checkRetry(path string, r Retry) {
	if r.Kind == "exponential" && r.Max < r.Delay {
		l.failAt(path+".max", "%s is less than delay, which is %s", formatDuration(r.Max), formatDuration(r.Delay))
	}
}

func (l *loader) checkQueue(path, name string, q *Queue) {
	if _, suffix, ok := strings.Cut(name, "/"); ok && q.Codec != "" && suffix != q.Codec {
		l.failAt(path+".codec", "the name of the queue says %.40q; leave one of them out", suffix)
	}
	if q.Retry != l.config.Queue.Retry { // else it is said once, of the section queue
		l.checkRetry(path+".retry", q.Retry)
	}
	if q.Concurrency > l.config.Concurrency {
		l.warnAt(path+".concurrency", "%d is more than the process runs at once, which is %d (concurrency)", q.Concurrency, l.config.Concurrency)
	}
	given := 0
	if h := q.HTTP; h != nil {
		given++
		l.checkHTTP(path+".http", h)
	}
	if x := q.Exec; x != nil {
		given++
		l.checkProgram(path+".exec", x.Command, x.Dir, x.Env, x.Inherit)
	}
	if w := q.Worker; w != nil {
		given++
		l.checkProgram(path+".worker", w.Command, w.Dir, w.Env, w.Inherit)
		if most := min(cmp.Or(q.Concurrency, l.config.Concurrency), l.config.Concurrency); w.Processes > most && most > 0 {
			l.warnAt(path+".worker.processes", "%d are more than the jobs that run at once, which are %d (concurrency); the others are idle", w.Processes, most)
		}
	}
	if given != 1 {
		l.failAt(path, "it has %d handlers; give it one of http, exec and worker", given)
	}
}

func (l *loader) checkHTTP(path string, h *HTTP) {
	before := len(l.wrong)
	u, err := url.Parse(h.URL.Reveal())
	switch {
	case h.URL == "": // said already
		return
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "":
		l.failAt(path+".url", "it is not a URL such as https://example.org/jobs; special characters in a password are percent-encoded")
	}
	for name, value := range h.Headers {
		at := join(path+".headers", name)
		switch {
		case !isToken(name):
			l.failAt(at, "this is no name of a header; use letters, digits and hyphens")
		case strings.ContainsFunc(value.Reveal(), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			l.failAt(at, "the value has control characters; write it in one line")
		}
	}
	for i, secret := range h.Secrets {
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret.Reveal(), "whsec_")); err != nil || len(raw) == 0 {
			l.failAt(path+".secrets", "secret %d is not whsec_ and base64; make one: echo whsec_$(openssl rand -base64 32)", i+1)
		}
	}
	if len(l.wrong) > before {
		return
	}
	if _, err := handler.NewHTTP(h.Options()); err != nil { // which has rules of its own, and connects to nothing
		for why := range strings.SplitSeq(strings.TrimPrefix(err.Error(), "handler: http: "), "\n") {
			l.failAt(path, "%s", why)
		}
	}
}

// isToken tells whether a text is a token of HTTP, as names of headers are.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func (l *loader) checkProgram(path string, command []string, dir string, env Env, inherit []string) {
	if len(command) > 0 && !filepath.IsAbs(command[0]) {
		l.failAt(path+".command", "got %.60q; write the absolute path of the program, as from command -v. No shell looks it up", command[0])
	}
	if !filepath.IsAbs(dir) {
		l.failAt(path+".dir", "got %.60q; write an absolute path", dir)
	}
	for name := range env {
		if err := checkVariable(name); err != nil {
			l.failAt(join(path+".env", name), "%v", err)
		}
	}
	for _, name := range inherit {
		if err := checkVariable(name); err != nil {
			l.failAt(path+".inherit", "%.60q: %v", name, err)
		}
	}
}

// checkVariable refuses names that no environment can hold, and those that the daemon sets for a job.
func checkVariable(name string) error {
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return errors.New("this is no name of a variable; it must have neither = nor NUL")
	case strings.HasPrefix(name, prefix):
		return fmt.Errorf("the names %s... are the daemon's own; choose another", prefix)
	case name == "TRACEPARENT" || name == "TRACESTATE":
		return errors.New("it is set for each job; leave it out")
	}
	return nil
}

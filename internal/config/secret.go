package config

// Values that no log, no error and no printed configuration may show. Each is a type of its own whose
// formatting hides it, so that nobody has to remember to; only Reveal gives it.

import (
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

const mask = "***"

// Secret is a text that is never shown.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// Reveal returns secrets themselves, by their names.
func Reveal[M ~map[string]Secret](secrets M) map[string]string {
	revealed := make(map[string]string, len(secrets))
	for name, secret := range secrets {
		revealed[name] = secret.Reveal()
	}
	return revealed
}

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format hides the secret from every verb, %x and %#v among them.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the secret from logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Address is the address of a database, as a URL or as key=value pairs; shown without its password.
type Address string

// Reveal returns the address itself.
func (a Address) Reveal() string { return string(a) }

// shownParameters are the parameters of a database's URL that hold no secret.
var shownParameters = []string{
	"application_name", "connect_timeout", "default_query_exec_mode", "host", "pool_max_conns", "pool_min_conns",
	"port", "search_path", "sslmode", "target_session_attrs",
}

func (a Address) String() string {
	s := string(a)
	if s == "" || strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		return maskURL(s, shownParameters...)
	}
	c, err := pgx.ParseConfig(s)
	if err != nil {
		return mask
	}
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s", c.Host, c.Port, c.Database, c.User)
}

// Format hides the password from every verb.
func (a Address) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// MarshalText hides the password from encoders.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// LogValue hides the password from logs.
func (a Address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Endpoint is the URL of a webhook; shown without its password and the values of its query.
type Endpoint string

// Reveal returns the URL itself.
func (e Endpoint) Reveal() string { return string(e) }
func (e Endpoint) String() string { return maskURL(string(e)) }

// Format hides what is secret from every verb.
func (e Endpoint) Format(f fmt.State, _ rune) { fmt.Fprint(f, e.String()) }

// MarshalText hides what is secret from encoders.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// LogValue hides what is secret from logs.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// maskURL hides a URL's password and the values of its parameters but those named. Of a URL that may
// have been cut in the wrong places, since a password in it is not encoded, it shows nothing.
func maskURL(s string, shown ...string) string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.Fragment != "" || strings.Count(s, "@") > 1 || u.User == nil && strings.Contains(s, "@") {
		return mask
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != nil {
		b.WriteString(url.User(u.User.Username()).String())
		if _, ok := u.User.Password(); ok {
			b.WriteString(":" + mask)
		}
		b.WriteString("@")
	}
	b.WriteString(u.Host + u.EscapedPath())
	for i, parameter := range strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' }) {
		name, _, _ := strings.Cut(parameter, "=")
		if !slices.Contains(shown, name) {
			parameter = name + "=" + mask
		}
		b.WriteString([]string{"?", "&"}[min(i, 1)] + parameter)
	}
	return b.String()
}

// Env is variables of an environment, by name. None of their values is shown.
type Env map[string]Secret

// Headers are HTTP headers, by name. Of their values only those are shown that cannot be secret.
type Headers map[string]Secret

// shownHeaders are those whose values are shown. To list the secret ones instead would miss those that
// somebody has made up.
var shownHeaders = []string{
	"accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "content-language", "content-type", "user-agent",
}

func (h Headers) String() string {
	shown := map[string]string{}
	for name, value := range h {
		shown[name] = showHeader(name, value)
	}
	return fmt.Sprint(shown)
}

func showHeader(name string, value Secret) string {
	if slices.Contains(shownHeaders, strings.ToLower(name)) {
		return value.Reveal()
	}
	return value.String()
}

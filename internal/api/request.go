// How a request is read: strictly, so that a mistake in it is an answer to whoever made it, and not a job
// that is other than meant.

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// request is one that has arrived whole.
type request struct {
	*http.Request
	query map[string]string
	body  []byte // empty: it has none
}

func (a *api) read(w http.ResponseWriter, r *http.Request, route route) (*request, error) {
	query, err := parameters(r, route.parameters)
	if err != nil || route.method != http.MethodPost {
		return &request{r, query, nil}, err
	}
	if r.ContentLength > a.maxBody {
		return nil, a.tooLarge()
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // or the listener's, where there is no such thing
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxBody))
	_, over := errors.AsType[*http.MaxBytesError](err)
	switch {
	case over:
		return nil, a.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, slowBody.because("it has to arrive within %v", bodyTime)
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, unreadable.because("send it again")
	}
	_ = control.SetReadDeadline(time.Time{}) // else it would end the request's context
	if len(body) > 0 {
		err = checkMediaType(r.Header)
	}
	return &request{r, query, body}, err
}

func (a *api) tooLarge() error {
	return bodyTooLarge.because("the limit is %d bytes (http.api.max_body); store what is large elsewhere, and put a reference to it", a.maxBody)
}

func checkMediaType(header http.Header) error {
	mediaType, parameters, err := mime.ParseMediaType(header.Get("Content-Type"))
	charset, has := parameters["charset"]
	switch {
	case err != nil || mediaType != "application/json" || has && !strings.EqualFold(charset, "utf-8"):
		return wrongMediaType.because("send JSON in UTF-8, with the header Content-Type: application/json")
	case header.Get("Content-Encoding") != "" && !strings.EqualFold(header.Get("Content-Encoding"), "identity"):
		return wrongMediaType.because("send it as it is, without a Content-Encoding")
	}
	return nil
}

// parameters reads the query, which may have each of the known ones once.
func parameters(r *http.Request, known []string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalidParameter.because("the query cannot be read: percent-encode what is not a letter or a digit")
	}
	query := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name][0]
		switch {
		case !slices.Contains(known, name):
			return nil, invalidParameter.because("%.40q is not known here; known are: %s", name, strings.Join(known, ", ")).in(excerpt(name))
		case len(values[name]) > 1:
			return nil, invalidParameter.because("it is given more than once").in(name)
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			return nil, invalidParameter.because("use UTF-8 without NUL").in(name)
		}
		query[name] = value
	}
	return query, nil
}

// id is the job's number in the path.
func (r *request) id() (int64, error) {
	text := r.PathValue("id")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(id, 10) != text {
		return 0, invalidParameter.because("the id of a job is a number, such as 42").in("id")
	}
	return id, nil
}

// field is where the value of a field goes to: a pointer to a pointer or a slice, nil if it is not there or null.
type field struct {
	target any
	want   string // what the value should be
}

// fields reads the body: one object with these fields and no others. A body that is empty has none of them.
func (r *request) fields(known map[string]field) error {
	if len(r.body) == 0 {
		return nil
	}
	if !utf8.Valid(r.body) {
		return malformed.because("it is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(r.body, &whole); err != nil {
		place := ""
		if syntax, is := errors.AsType[*json.SyntaxError](err); is {
			place = fmt.Sprintf(" (byte %d)", syntax.Offset)
		}
		return malformed.because("%v%s", err, place)
	}
	// By its tokens, since Unmarshal would take DATA for data, and the last of two for both.
	decoder := json.NewDecoder(bytes.NewReader(r.body))
	if first, _ := decoder.Token(); first != json.Delim('{') {
		return invalidField.because("the body has to be an object, such as {}")
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return malformed.because("%v", err)
		}
		name, _ := token.(string) // the name of a field is one
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return malformed.because("%v", err)
		}
		f, is := known[name]
		switch {
		case !is:
			names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			return unknownField.because("%.40q is not known here; known are: %s", name, names).at(excerpt(name))
		case seen[name]:
			return invalidField.because("it stands twice").at(name)
		}
		seen[name] = true
		if err := json.Unmarshal(value, f.target); err != nil {
			return invalidField.because("it should be %s", f.want).at(name)
		}
	}
	return nil
}

// timestamp is a time in a body. The package time is lenient: it takes T1:00:00Z, a comma, and an offset of a hundred hours.
type timestamp time.Time

var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// UnmarshalText reads it.
func (t *timestamp) UnmarshalText(text []byte) error {
	if !rfc3339.Match(text) {
		return errors.New("api: not of RFC 3339")
	}
	at, err := time.Parse(time.RFC3339, string(text))
	*t = timestamp(at)
	return err
}

// excerpt is the beginning of a text from outside, for a message.
func excerpt(s string) string {
	runes := []rune(s)
	return string(runes[:min(len(runes), 40)])
}

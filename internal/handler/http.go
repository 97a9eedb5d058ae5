// Jobs posted to an HTTP endpoint.

package handler

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// HTTPOptions say where jobs are posted to, and how. Only URL is required.
type HTTPOptions struct {
	// URL is http or https. A user and password in it are sent as basic authentication.
	URL string

	// Headers are sent with each job. Their values are taken for secrets: they are in no error.
	Headers map[string]string

	// Secrets sign each job, as Standard Webhooks say: 24 to 64 bytes in base64, with or without
	// the prefix whsec_. Several of them make a signature each, so that one can be replaced by
	// the next while endpoints still know the other. None: jobs are not signed.
	Secrets []string

	// Timeout is for one request, from the connection to the end of the answer, whatever else the
	// run's context allows. Zero means 30 seconds.
	Timeout time.Duration

	// MaxConnsPerHost limits the connections; further jobs wait for one. Zero means no limit but the
	// queue's concurrency.
	MaxConnsPerHost int

	// MaxResponse is how many bytes of an answer are read. What is longer costs its connection.
	// Zero means 1 MiB.
	MaxResponse int64

	// MaxAttempts is what jobs without a number of their own are said to have. Zero: nothing is said.
	MaxAttempts int
}

const (
	defaultTimeout     = 30 * time.Second
	defaultMaxResponse = 1 << 20
	dialTimeout        = 10 * time.Second
	idleTimeout        = 60 * time.Second // less than most servers have: who closes first must be us
	maxExcerpt         = 1 << 10          // bytes of an answer that an error holds
)

// HTTP posts each job to an endpoint.
type HTTP struct {
	options HTTPOptions
	url     *url.URL
	header  http.Header
	keys    []*standardwebhooks.Webhook
	secrets *strings.Replacer // in what is shown of an answer
	dialer  net.Dialer
	client  *http.Transport // not a Client: that follows redirects
	runs    *runs
}

// NewHTTP checks the options and returns the handler. It connects to nothing yet.
func NewHTTP(o HTTPOptions) (*HTTP, error) {
	h := &HTTP{options: o, header: http.Header{}, runs: newRuns(), dialer: net.Dialer{Timeout: dialTimeout, ControlContext: refuse}}
	if err := errors.Join(h.setURL(), h.setHeaders(), h.setKeys(), h.setLimits()); err != nil {
		return nil, fmt.Errorf("handler: http: %w", err)
	}
	h.secrets = h.redactor()
	h.client = &http.Transport{
		// No proxy, whatever the environment says: it would be the one to choose the address.
		DialContext:         h.dialer.DialContext,
		TLSHandshakeTimeout: dialTimeout,
		MaxConnsPerHost:     h.options.MaxConnsPerHost,
		MaxIdleConns:        idleConns,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // the cap is on what is read
		ForceAttemptHTTP2:   true,
	}
	return h, nil
}

// idleConns are kept for the next jobs: by default it would be two, and the others opened anew each time.
const idleConns = 100

func (h *HTTP) setURL() error {
	u, err := url.Parse(h.options.URL)
	switch {
	case err != nil: // which may quote a password
		return errors.New("the URL is malformed; it is not shown, as it may hold secrets. Write one like https://example.org/jobs")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("the URL's scheme is neither http nor https")
	case u.Hostname() == "":
		return errors.New("the URL has no host")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if why := refusal(ip); why != "" {
			return fmt.Errorf("%w: %s is %s", ErrAddress, ip, why)
		}
	}
	h.url = u
	if user := u.User; user != nil {
		password, _ := user.Password()
		request := http.Request{Header: h.header}
		request.SetBasicAuth(user.Username(), password)
	}
	return nil
}

// reserved are headers that are set for each job, or by the protocol.
var reserved = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Idempotency-Key", "Traceparent", "Tracestate"}

func (h *HTTP) setHeaders() (err error) {
	h.header.Set("Content-Type", "application/json")
	h.header.Set("User-Agent", "pq-dispatch")
	for name, value := range h.options.Headers {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !isToken(name):
			err = errors.Join(err, fmt.Errorf("%.80q is no name of a header", name))
		case strings.ContainsFunc(value, unicode.IsControl):
			err = errors.Join(err, fmt.Errorf("the header %s has a value with control characters; is there a newline at its end?", canonical))
		case slices.Contains(reserved, canonical), strings.HasPrefix(canonical, factPrefix), strings.HasPrefix(canonical, "Webhook-"):
			err = errors.Join(err, fmt.Errorf("the header %s is set for each job; leave it out", canonical))
		case len(h.header[canonical]) > 0 && canonical != "Content-Type" && canonical != "User-Agent":
			err = errors.Join(err, fmt.Errorf("the header %s is given twice, in different case or by the URL", canonical))
		default:
			h.header.Set(canonical, value)
		}
	}
	return err
}

// isToken tells whether a text can be the name of a header (RFC 9110, 5.6.2).
func isToken(s string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(marks, r))
	})
}

const factPrefix = "Pq-Dispatch-"

const minKey, maxKey = 24, 64 // bytes, as the standard says

func (h *HTTP) setKeys() error {
	for i, secret := range h.options.Secrets {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(raw) < minKey || len(raw) > maxKey {
			return fmt.Errorf("secret %d is not %d to %d bytes in base64; make one by: openssl rand -base64 32", i+1, minKey, maxKey)
		}
		key, err := standardwebhooks.NewWebhookRaw(raw)
		if err != nil {
			return fmt.Errorf("secret %d: %w", i+1, err)
		}
		h.keys = append(h.keys, key)
	}
	return nil
}

func (h *HTTP) setLimits() error {
	o := &h.options
	return errors.Join(
		atLeastZero("Timeout", &o.Timeout, defaultTimeout),
		atLeastZero("MaxConnsPerHost", &o.MaxConnsPerHost, 0),
		atLeastZero("MaxResponse", &o.MaxResponse, defaultMaxResponse),
		atLeastZero("MaxAttempts", &o.MaxAttempts, 0),
	)
}

// atLeastZero refuses what is negative, and puts the default in the place of zero.
func atLeastZero[N int | int64 | time.Duration](name string, value *N, zero N) error {
	if *value < 0 {
		return fmt.Errorf("%s is %v; it must not be negative", name, *value)
	}
	if *value == 0 {
		*value = zero
	}
	return nil
}

// redactor takes out what an endpoint may echo of the secrets that it was sent.
func (h *HTTP) redactor() *strings.Replacer {
	const shortest = 6 // what is shorter is no secret, and in many a text
	var pairs []string
	hide := func(secret string) {
		if len(secret) >= shortest {
			pairs = append(pairs, secret, "***")
		}
	}
	for name, values := range h.header {
		if name == "Content-Type" || name == "User-Agent" || name == "Accept" {
			continue
		}
		for _, value := range values {
			hide(value)
			for word := range strings.FieldsSeq(value) { // the token of "Bearer token"
				hide(word)
			}
		}
	}
	if password, ok := h.url.User.Password(); ok {
		hide(password)
	}
	for _, values := range h.url.Query() {
		for _, value := range values {
			hide(value)
		}
	}
	hide(h.url.RawQuery)
	hide(h.url.RequestURI())
	for _, secret := range h.options.Secrets {
		hide(secret)
	}
	return strings.NewReplacer(pairs...)
}

// Handle posts the job once. When ctx ends first, so does the request, and it is an error.
func (h *HTTP) Handle(ctx context.Context, job *dispatcher.Job) error {
	ctx, leave, ok := h.runs.enter(ctx)
	if !ok {
		return dispatcher.Snooze(closedDelay)
	}
	defer leave()
	ctx, cancel := context.WithTimeoutCause(ctx, h.options.Timeout, fmt.Errorf("no answer within %v", h.options.Timeout))
	defer cancel()
	request, err := h.request(ctx, job)
	if err != nil {
		return retry.Permanent(h.explain(err))
	}
	response, err := h.client.RoundTrip(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return h.explain(err)
	}
	defer response.Body.Close()
	// Read to its end, so that the connection can be used again. The status has decided already: an
	// answer that breaks off changes nothing.
	body := io.LimitReader(response.Body, h.options.MaxResponse)
	start, _ := io.ReadAll(io.LimitReader(body, 4*maxExcerpt))
	_, _ = io.Copy(io.Discard, body)
	return h.judge(response, start)
}

func (h *HTTP) request(ctx context.Context, job *dispatcher.Job) (*http.Request, error) {
	body := data(job)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.URL, request.Host = h.url, h.url.Host
	header := h.header.Clone()
	request.Header = header
	for _, f := range facts(job, h.options.MaxAttempts) {
		if f.value != "" {
			header.Set(factPrefix+strings.ReplaceAll(f.name, "_", "-"), headerValue(f.value))
		}
	}
	for key, value := range traceOf(ctx, job) {
		header.Set(key, value)
	}
	id := messageID(job)
	// A connection that the server has just closed is not an error of the job: with this header the
	// transport knows that it may send the request once more.
	header.Set("Idempotency-Key", id)
	now := time.Now()
	header.Set(standardwebhooks.HeaderWebhookID, id)
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	var signatures []string
	for _, key := range h.keys {
		signature, err := key.Sign(id, now, body)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signature)
	}
	if len(signatures) > 0 {
		header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	}
	return request, nil
}

// messageID is the same for all attempts of a job, and no other job's: not even one with its id in
// another database, as far as the two were not put in the same microsecond.
func messageID(job *dispatcher.Job) string {
	return fmt.Sprintf("job_%d_%s", job.ID, strconv.FormatInt(job.EnqueuedAt.UnixMicro(), 36))
}

// headerValue writes any text in printable ASCII, percent-encoded as in a URL where it is not.
func headerValue(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// judge says what an answer means for the job.
func (h *HTTP) judge(response *http.Response, start []byte) error {
	code := response.StatusCode
	said := strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
	if excerpt := shorten(h.secrets.Replace(printable(start)), maxExcerpt); excerpt != "" {
		said += ": " + excerpt
	}
	switch {
	case code/100 == 2:
		return nil
	case code == http.StatusGone:
		return dispatcher.Discard(said)
	case code/100 == 3:
		said += "; redirects are not followed: set the URL to where it leads"
	}
	err := h.explain(errors.New(said))
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		// A date is on the server's clock.
		now, dateErr := http.ParseTime(response.Header.Get("Date"))
		if dateErr != nil {
			now = time.Now()
		}
		if delay, ok := retryAfter(response.Header.Get("Retry-After"), now); ok {
			return retry.After(delay, err)
		}
	}
	return err
}

// explain names the endpoint, without what may be secret in its URL: the path is, of many a webhook.
func (h *HTTP) explain(err error) error {
	return fmt.Errorf("handler: POST to %s://%s: %w", h.url.Scheme, h.url.Host, err)
}

// Close waits for the requests under way until ctx ends, then interrupts them, and closes all connections.
func (h *HTTP) Close(ctx context.Context) error {
	return h.runs.close(ctx, h.client.CloseIdleConnections)
}

// What goes wrong, as RFC 9457 has it: one kind of problem for each thing that a caller may want to tell apart.

package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// kind is a kind of problem. The code is for programs, and stays.
type kind struct {
	status      int
	code, title string
}

var (
	malformed        = kind{http.StatusBadRequest, "malformed_json", "The body is not JSON"}
	unreadable       = kind{http.StatusBadRequest, "unreadable_body", "The body did not arrive whole"}
	invalidParameter = kind{http.StatusBadRequest, "invalid_parameter", "A parameter of the URL is wrong"}
	unauthorized     = kind{http.StatusUnauthorized, "unauthorized", "The token is missing or wrong"}
	notFound         = kind{http.StatusNotFound, "not_found", "There is nothing at this path"}
	noJob            = kind{http.StatusNotFound, "no_job", "There is no such job"}
	wrongMethod      = kind{http.StatusMethodNotAllowed, "method_not_allowed", "This path has no such method"}
	slowBody         = kind{http.StatusRequestTimeout, "slow_body", "The body came too slowly"}
	jobRunning       = kind{http.StatusConflict, "job_running", "The job is running"}
	jobWaiting       = kind{http.StatusConflict, "job_waiting", "The job is due already"}
	jobTaken         = kind{http.StatusConflict, "job_taken", "The job is another consumer's"}
	jobNotWaiting    = kind{http.StatusConflict, "job_not_waiting", "The job is out of its queue"}
	jobBusy          = kind{http.StatusConflict, "job_busy", "Someone else is about to change the job"}
	bodyTooLarge     = kind{http.StatusRequestEntityTooLarge, "body_too_large", "The body is too large"}
	dataTooLarge     = kind{http.StatusRequestEntityTooLarge, "data_too_large", "The data of a job is too large"}
	wrongMediaType   = kind{http.StatusUnsupportedMediaType, "unsupported_media_type", "The body is not said to be JSON"}
	unknownField     = kind{http.StatusUnprocessableEntity, "unknown_field", "The body has a field that is not known here"}
	invalidField     = kind{http.StatusUnprocessableEntity, "invalid_field", "A field of the body is wrong"}
	invalidData      = kind{http.StatusUnprocessableEntity, "invalid_data", "The database cannot hold the data of a job"}
	tooManyRequests  = kind{http.StatusTooManyRequests, "too_many_requests", "There are too many requests"}
	internal         = kind{http.StatusInternalServerError, "internal", "The daemon has failed"}
	unavailable      = kind{http.StatusServiceUnavailable, "database_unavailable", "The database cannot be used now"}
	notMigrated      = kind{http.StatusServiceUnavailable, "not_migrated", "The database has no queue that this daemon works with"}
	kinds            = []kind{
		malformed, unreadable, invalidParameter, unauthorized, notFound, noJob, wrongMethod, slowBody, jobRunning, jobWaiting, jobTaken,
		jobNotWaiting, jobBusy, bodyTooLarge, dataTooLarge, wrongMediaType, unknownField, invalidField, invalidData,
		tooManyRequests, internal, unavailable, notMigrated,
	}
)

// problem is the body of an answer that is an error.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Detail    string `json:"detail"`              // what is wrong this time, and what can be done
	Pointer   string `json:"pointer,omitempty"`   // to the place in the body, as RFC 6901 has it
	Parameter string `json:"parameter,omitempty"` // the one in the URL

	retryAfter time.Duration
	cause      error // for the log only
}

// documentation is where each kind of problem is explained, by its code.
const documentation = "https://github.com/pq-dispatch/pq-dispatch/blob/main/docs/api.md#"

func (k kind) because(format string, args ...any) *problem {
	return &problem{Type: documentation + k.code, Title: k.title, Status: k.status, Code: k.code, Detail: fmt.Sprintf(format, args...)}
}

// noRoute is the answer on a path that leads nowhere.
func noRoute() *problem {
	return notFound.because("look at /api/v1/openapi.yaml; characters such as / in the name of a queue are percent-encoded")
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }

// at names the place in the body: the way to it, from the outermost name.
func (p *problem) at(names ...string) *problem {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	for _, name := range names {
		p.Pointer += "/" + escape.Replace(name)
	}
	return p
}

func (p *problem) in(parameter string) *problem {
	p.Parameter = parameter
	return p
}

func (p *problem) causedBy(err error) *problem {
	p.cause = err
	return p
}

func (p *problem) after(wait time.Duration) *problem {
	p.retryAfter = wait
	return p
}

// How long a caller should wait before it asks again.
const (
	soon  = time.Second     // a transaction of someone else will have ended
	later = 5 * time.Second // the database may be back
)

// problemOf turns an error of the store into what the caller is told. What the database itself says stays in the
// log: it may name hosts and roles.
func problemOf(err error, method string) *problem {
	if p, is := errors.AsType[*problem](err); is {
		return p
	}
	says := strings.TrimPrefix(err.Error(), "store: ")
	switch {
	case errors.Is(err, store.ErrGone):
		return noJob.because("it never was, or it is done: a job that is done is deleted")
	case errors.Is(err, store.ErrQueueName), errors.Is(err, store.ErrCodec):
		return invalidParameter.because("%s", says).in("queue")
	case errors.Is(err, store.ErrCursor):
		return invalidParameter.because("%s", says).in("after")
	case errors.Is(err, store.ErrState):
		return invalidParameter.because("%s", says).in("state")
	case errors.Is(err, store.ErrNotMigrated), errors.Is(err, store.ErrNewerSchema):
		return notMigrated.because("ask its operator: pq-dispatch migrate up").causedBy(err).after(later)
	}
	pgErr, isPg := errors.AsType[*pgconn.PgError](err)
	switch {
	case !isPg && errors.Is(err, store.ErrTooLarge):
		return dataTooLarge.because("%s", says).at("data")
	case errors.Is(err, store.ErrData) && isPg:
		return invalidData.because("PostgreSQL cannot store it as jsonb").at("data")
	case errors.Is(err, store.ErrData):
		return invalidData.because("%s", says).at("data")
	case isPg && !passing(err, pgErr):
		return internal.because("the database has refused; its message is in the daemon's log").causedBy(err)
	}
	p := unavailable.because("it did not answer in time, or refused; ask again later").causedBy(err).after(later)
	if method != http.MethodGet && method != http.MethodHead && !undone(err) {
		p.Detail = "it did not answer in time; it is not known whether the request was carried out, so look before you send it again"
	}
	return p
}

// passing tells whether it is no fault of the statement: it may work later, or on another server.
func passing(err error, pgErr *pgconn.PgError) bool {
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
		return true
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "08", "25", "40", "53", "55", "57", "58": // connection, read-only, serialization, resources, locks, operator, system
		return true
	}
	return errors.Is(err, store.ErrLockTable)
}

// undone tells whether it is certain that nothing was changed: the statement never left, or the server has answered.
func undone(err error) bool {
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
		return true
	}
	pgErr, answered := errors.AsType[*pgconn.PgError](err)
	return answered && pgErr.SeverityUnlocalized == "ERROR" || pgconn.SafeToRetry(err) // FATAL may come after a commit
}

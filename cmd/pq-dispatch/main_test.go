package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// envProgram makes the test binary the program itself, for the tests that need it as a process.
const envProgram = "RUN_PQ_DISPATCH"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
	}
	for _, name := range []string{envURL, envURLFile, envAnyURL, envDirectURL, envConfigDirect, envDirectURLFile, envSchema, envTable} {
		os.Unsetenv(name) // whoever runs the tests may have set them
	}
	pgtest.Main(m)
}

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return store.New(conn, store.Options{}).Migrate(ctx)
}}

// database is a migrated database and the program in it.
type database struct {
	*testing.T
	url   string
	jobs  *store.Store
	query *pgxpool.Pool
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	url := migrated.Database(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &database{t, url, store.New(pool, store.Options{}), pool}
}

// result is what a run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

// cli runs the program in this process.
func cli(stdin string, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(args, strings.NewReader(stdin), &lockedWriter{w: &stdout}, &stderr) // the commands of work share it
	return result{code, stdout.String(), stderr.String()}
}

// run runs it on the database.
func (d *database) run(args ...string) result { return d.runWith("", args...) }

func (d *database) runWith(stdin string, args ...string) result {
	return cli(stdin, append([]string{"--database-url", d.url}, args...)...)
}

// must runs it on the database, where it has to succeed, and returns its output.
func (d *database) must(args ...string) string {
	d.Helper()
	r := d.run(args...)
	if r.code != exitOK {
		d.Fatalf("%q: got exit code %d and %q, want 0", args, r.code, r.stderr)
	}
	return r.stdout
}

// number reads one number from the database.
func (d *database) number(query string, args ...any) (n int) {
	d.Helper()
	if err := d.query.QueryRow(d.Context(), query, args...).Scan(&n); err != nil {
		d.Fatal(err)
	}
	return n
}

// testPatience is how long a test waits for what must happen. No test passes or fails by how long it takes.
const testPatience = 2 * time.Minute

// eventually polls until a condition holds.
func (d *database) eventually(what string, holds func() bool) {
	d.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(testPatience)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			d.Fatalf("it did not come about within %v that %s", testPatience, what)
		}
	}
}

func wants(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func contains(t *testing.T, what, got, part string) {
	t.Helper()
	if !strings.Contains(got, part) {
		t.Errorf("%s: got %q, want it to contain %q", what, got, part)
	}
}

// failsWith checks the exit code, and that the error is one line that contains all the parts.
func (r result) failsWith(t *testing.T, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code: got %d, want %d (%s)", r.code, code, r.stderr)
	}
	if !strings.HasPrefix(r.stderr, "pq-dispatch: ") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("standard error: got %q, want one line of pq-dispatch", r.stderr)
	}
	for _, part := range parts {
		contains(t, "standard error", r.stderr, part)
	}
}

func TestWrongUseExitsWith2AndPointsToTheHelp(t *testing.T) {
	// No server listens there: what needs one would exit with 3.
	const nowhere = "postgres://user:canary@127.0.0.1:1/app"
	for _, tt := range []struct {
		args string
		want string
	}{
		{"nonsense", "unknown command"},
		{"--nonsense", "unknown flag"},
		{"migrate", "up, down, status or print"},
		{"migrate nonsense", "unknown command"},
		{"migrate up extra", "extra"},
		{"migrate up --to x", "invalid argument"},
		{"migrate down", "--to"},
		{"migrate down --to 0", "--yes"},
		{"migrate down --to -1 --yes", "versions to go back to"},
		{"migrate down --to 99 --yes", "versions to go back to"},
		{"migrate print --format flyway", "goose, tern and dbmate"},
		{"migrate print --direction sideways", "up or down"},
		{"migrate print --format goose --direction up", "both directions"},
		{"put", "arg(s)"},
		{"put apples 1 2", "arg(s)"},
		{"put apples 1 --schedule-at yesterday", "5m, 1h or 2d"},
		{"put apples 1 --schedule-at 10000-01-01T00:00:00Z", "5m, 1h or 2d"},
		{"put apples 1 --expected-at 5x", "5m, 1h or 2d"},
		{"put apples 1 --max-attempts 0", "whole number from 1"},
		{"put apples 1 --task=", "name is empty"},
		{"put apples 1 --file x", "not both"},
		{"put apples - --file x", "not both"},
		{"put apples --file /does/not/exist", "no such file"},
		{"put apples 1 --jsonl", "standard input or --file"},
		{"put apples/gob 1", "leave out /gob"},
		{"get", "arg(s)"},
		{"get apples --timeout 5", "no unit"},
		{"get apples --timeout -1s", "number is missing"},
		{"get apples --count 0", "whole number from 1"},
		{"get apples --count many", "whole number from 1"},
		{"get apples/gob", "leave out /gob"},
		{"work", "write --"},
		{"work apples", "write --"},
		{"work -- true", "no queue"},
		{"work apples --", "no command"},
		{"work apples --concurrency 0 -- true", "whole number from 1"},
		{"work apples --concurrency -1 -- true", "whole number from 1"},
		{"work apples --max-attempts 0 -- true", "whole number from 1"},
		{"work apples --timeout forever -- true", "number is missing"},
		{"work apples -- command-that-is-nowhere", "command-that-is-nowhere"},
		{"work apples/gob -- true", "leave out /gob"},
		{"stats a b", "arg(s)"},
		{"ls extra", "extra"},
		{"ls --state rotten", "waiting, running"},
		{"ls --limit 0", "whole number from 1"},
		{"ls --older-than 5", "no unit"},
		{"ls --queue apples/gob", "leave out /gob"},
		{"show", "arg(s)"},
		{"show apples", "whole number"},
		{"show 1 --raw --json", "raw"},
		{"retry", "ids of jobs"},
		{"retry apples", "not the id of a job"},
		{"retry 1 --queue apples", "not both"},
		{"retry --state set_aside", "--queue"},
		{"retry --queue apples --state rotten", "waiting, running"},
		{"retry --queue apples --state rotten", "taken, all"},
		{"cancel", "ids of jobs"},
		{"cancel 1 --dry-run", "takes no ids"},
		{"discard --queue apples", "--state"},
		{"discard --queue apples --state set_aside", "--yes"},
		{"move 1", "--to"},
		{"move --queue apples --to apples", "the same"},
		{"move 1 --to pears/gob", "leave out /gob"},
		{"purge", "arg(s)"},
		{"purge apples", "--state"},
		{"purge apples --state running --yes", "left alone"},
		{"purge apples --state set_aside", "--yes"},
		{"pause", "arg(s)"},
		{"pause apples --until yesterday", "5m, 1h or 2d"},
		{"pause apples/gob", "leave out /gob"},
		{"resume", "arg(s)"},
		{"queues --count-to 0", "whole number from 1"},
		{"dispatchers extra", "extra"},
		{"version extra", "extra"},
		{"demo a b", "arg(s)"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			r := cli("", append([]string{"--database-url", nowhere}, strings.Fields(tt.args)...)...)
			r.failsWith(t, exitUsage, tt.want, "--help'")
			wants(t, "standard output", r.stdout, "")
		})
	}
}

func TestWrongNamesAndDataExitWith2(t *testing.T) {
	const nowhere = "postgres://user:canary@127.0.0.1:1/app"
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"empty queue name", []string{"get", ""}, "queue name"},
		{"empty queue to work on", []string{"work", "", "--", "true"}, "queue name"},
		{"empty queue to count", []string{"stats", ""}, "queue name"},
		{"empty queue to look at", []string{"queues", ""}, "queue name"},
		{"empty queue to purge", []string{"purge", "", "--state", "waiting", "--yes"}, "queue name"},
		{"empty queue to pause", []string{"pause", ""}, "queue name"},
		{"a cursor that is none", []string{"ls", "--after", "nonsense"}, "cursor"},
		{"long queue name", []string{"put", strings.Repeat("x", 201), "1"}, "201 bytes"},
		{"unknown codec", []string{"put", "apples/xml", "1"}, "gob, json"},
		{"a name with a slash", []string{"queues", "a/b"}, "add /json"},
		{"schema", []string{"get", "apples", "--schema", "a b"}, "letters, digits"},
		{"table", []string{"migrate", "up", "--table", "a\"b"}, "letters, digits"},
		{"table to print", []string{"migrate", "print", "--table", "a\"b"}, "letters, digits"},
		{"data that is no JSON", []string{"put", "apples", "Cox"}, "quotes"},
		{"no data", []string{"put", "apples"}, "not JSON"},
		{"two values", []string{"put", "apples", "1 2"}, "--jsonl"},
		{"a time", []string{"put", "apples", "12:30"}, "quotes"},
		{"NUL", []string{"put", "apples", `"\u0000"`}, "NUL"},
		{"a key twice", []string{"put", "apples", `{"a":1,"a":2}`}, "twice"},
		{"too large", []string{"put", "apples", `"` + strings.Repeat("x", 1<<20) + `"`}, "limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cli("", append([]string{"--database-url", nowhere}, tt.args...)...).failsWith(t, exitUsage, tt.want)
		})
	}
}

func TestADatabaseOutOfReachExitsWith3(t *testing.T) {
	for _, command := range []string{
		"migrate up", "migrate status", "put apples 1", "get apples", "get apples --timeout forever", "stats", "work apples -- true",
		"ls", "show 1", "retry 1", "purge apples --state waiting --yes", "pause apples", "queues", "dispatchers",
	} {
		t.Run(command, func(t *testing.T) {
			r := cli("", append([]string{"--database-url", "postgres://user:canary@127.0.0.1:1/app"}, strings.Fields(command)...)...)
			r.failsWith(t, exitUnreachable, "127.0.0.1:1", "it is from --database-url")
			if strings.Count(r.stderr, "refused") != 1 {
				t.Errorf("got %q, want the reason once", r.stderr)
			}
		})
	}
}

func TestADirectAddressOutOfReachExitsWith3(t *testing.T) {
	d := newDatabase(t)
	d.run("work", "apples", "--direct-url", "postgres://user:canary@127.0.0.1:1/app", "--", "true").
		failsWith(t, exitUnreachable, "dispatcher's session", "it is from --direct-url")
}

func TestAnUnmigratedDatabaseExitsWith1AndTheRemedy(t *testing.T) {
	url := pgtest.Database(t)
	for _, command := range []string{"put apples 1", "get apples", "stats", "work apples -- true",
		"ls", "show 1", "retry 1", "cancel --queue apples", "pause apples", "resume apples", "queues", "dispatchers"} {
		t.Run(command, func(t *testing.T) {
			cli("", append([]string{"--database-url", url}, strings.Fields(command)...)...).
				failsWith(t, exitFailed, "pq-dispatch migrate up")
		})
	}
}

func TestANewerSchemaExitsWith1(t *testing.T) {
	d := newDatabase(t)
	if _, err := d.query.Exec(t.Context(), `insert into pq_dispatch.schema_version (version, name, queue) values (99, 'future', '"public"."queue"')`); err != nil {
		t.Fatal(err)
	}
	d.run("work", "apples", "--", "true").failsWith(t, exitFailed, "99", "update this program")
	d.run("migrate", "up").failsWith(t, exitFailed, "99", "update this program")
}

func TestAWrongUserPasswordOrDatabaseExitsWith2(t *testing.T) {
	config, err := pgx.ParseConfig(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	address := func(user, password, database string) string {
		return fmt.Sprintf("postgres://%s:%s@%s:%d/%s", user, url.QueryEscape(password), config.Host, config.Port, database)
	}
	for what, address := range map[string]string{
		"password authentication failed":    address(config.User, "canary", config.Database),
		`user "nobody"`:                     address("nobody", "canary", config.Database),
		`database "nowhere" does not exist`: address(config.User, config.Password, "nowhere"),
	} {
		for _, command := range []string{"stats", "put apples 1", "work apples -- true"} {
			cli("", append([]string{"--database-url", address}, strings.Fields(command)...)...).
				failsWith(t, exitUsage, what, "they are from --database-url")
		}
	}
}

func TestAPasswordIsNeverShown(t *testing.T) {
	for _, address := range []string{
		"postgres://user:canary@127.0.0.1:1/app",
		"postgres://user:canary@127.0.0.1:x/app",
		"postgres://user:canary@127.0.0.1/app?sslmode=nonsense",
		"postgres://user:can/canary@127.0.0.1/app",
		"postgres://user:canary/more@127.0.0.1/app",
		"postgres://user:#canary@127.0.0.1/app",
		"postgres://user:50%canary@127.0.0.1/app",
		"postgres://user:50%zz-canary@127.0.0.1/app",
		"postgres://user:\x7fcanary@127.0.0.1/app",
		"postgres:/user:canary@127.0.0.1/app",
		"postgresql://user@127.0.0.1:1/app?password=canary",
		"host=127.0.0.1 port=1 user=user password=canary dbname=app",
		"host=127.0.0.1 port=1 user=user password='can canary' dbname=app",
		"host=127.0.0.1 port=x user=user password=canary dbname=app",
		"host=127.0.0.1 port=1 password='canary",
		"host=127.0.0.1 port=1 password=the canary",
		"host=127.0.0.1 port=1 password='can\\' canary' sslmode=nonsense",
		"canary",
	} {
		for _, flag := range []string{"--database-url", "--direct-url"} {
			for _, command := range []string{"stats", "put apples 1", "get apples", "migrate status", "work apples -- true", "demo /does/not/exist"} {
				if command == "demo /does/not/exist" && flag == "--direct-url" {
					continue
				}
				r := cli("", append([]string{"--database-url", "postgres://127.0.0.1:1/app", flag, address}, strings.Fields(command)...)...)
				if r.code == exitOK || strings.Contains(r.stdout+r.stderr, "canary") {
					t.Errorf("%s %s %s: got exit code %d and %q, want an error without the password", flag, address, command, r.code, r.stderr)
				}
			}
		}
	}
}

func TestTheDatabaseIsTheFirstOneNamed(t *testing.T) {
	nowhere := func(name string) string { return "postgres://127.0.0.1:1/" + name }
	t.Setenv("PGHOST", "127.0.0.1")
	t.Setenv("PGPORT", "1")
	t.Setenv("PGDATABASE", "fourth")
	cli("", "stats").failsWith(t, exitUnreachable, "database=fourth", "PGHOST")
	t.Setenv(envAnyURL, nowhere("third"))
	cli("", "stats").failsWith(t, exitUnreachable, "database=third", "$DATABASE_URL")
	t.Setenv(envURL, nowhere("second"))
	cli("", "stats").failsWith(t, exitUnreachable, "database=second", "$PQ_DISPATCH_DATABASE_URL")
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(nowhere("file")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envURLFile, file)
	cli("", "stats").failsWith(t, exitUsage, "$PQ_DISPATCH_DATABASE_URL_FILE", "leave one of them out")
	cli("", "stats", "--database-url", nowhere("first")).failsWith(t, exitUnreachable, "database=first", "--database-url")
	t.Setenv(envURL, "")
	cli("", "stats").failsWith(t, exitUnreachable, "database=file", "$PQ_DISPATCH_DATABASE_URL_FILE")
	t.Setenv(envURLFile, file+".not")
	cli("", "stats").failsWith(t, exitUsage, "$PQ_DISPATCH_DATABASE_URL_FILE", "no such file")
}

// What the daemon is told by variables, who looks after its queues should not have to say again.
func TestTheVariablesOfTheDatabaseHoldForAllCommands(t *testing.T) {
	url := pgtest.Database(t)
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envURLFile, file)
	t.Setenv(envSchema, "orchard")
	t.Setenv(envTable, "jobs")
	for _, args := range [][]string{{"migrate", "up"}, {"put", "apples", "1"}} {
		if r := cli("", args...); r.code != exitOK {
			t.Fatalf("%q: got exit code %d and %q, want 0", args, r.code, r.stderr)
		}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var queue string
	if err := conn.QueryRow(t.Context(), `select q_name from orchard.jobs`).Scan(&queue); err != nil || queue != "apples" {
		t.Errorf("got a job of %q, %v in the schema and table of the variables, want apples", queue, err)
	}
	cli("", "stats", "--schema", "public").failsWith(t, exitFailed, "run 'pq-dispatch migrate up --table jobs'")
	cli("", "stats", "--table", "queue").failsWith(t, exitFailed, "run 'pq-dispatch migrate up --schema orchard'")
	contains(t, "the configuration", cli("", "config", "print", "--queues", "{apples: {exec: {command: [/bin/true]}}}").stdout, "schema: orchard")

	t.Setenv(envConfigDirect, "postgres://x:port/")
	cli("", "get", "apples").failsWith(t, exitUsage, "address from $PQ_DISPATCH_DATABASE_DIRECT_URL")
	t.Setenv(envDirectURLFile, file)
	cli("", "get", "apples").failsWith(t, exitUsage, "leave one of them out")
	t.Setenv(envConfigDirect, "")
	if r := cli("", "get", "apples"); r.code != exitOK || r.stdout != "1\n" {
		t.Errorf("got exit code %d, %q and %q, want the job", r.code, r.stdout, r.stderr)
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var look func(*cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Example == "" && !cmd.Hidden {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			look(c)
		}
	}
	look(newApp(nil, nil, nil).rootCommand())
}

func TestHelpIsDataAndSucceeds(t *testing.T) {
	for _, args := range []string{"", "--help", "help put", "put --help", "migrate --help", "completion bash"} {
		r := cli("", strings.Fields(args)...)
		if r.code != exitOK || r.stdout == "" || r.stderr != "" {
			t.Errorf("%q: got exit code %d, %d bytes of output and %q, want 0, some and none", args, r.code, len(r.stdout), r.stderr)
		}
	}
	contains(t, "help of put", cli("", "help", "put").stdout, "Examples:")
}

func TestVersionNamesTheBuild(t *testing.T) {
	wants(t, "version --json", regexp.MustCompile(`"(version|revision|go)":"[^"]*"`).ReplaceAllString(cli("", "version", "--json").stdout, `"$1":"X"`),
		`{"version":"X","revision":"X","go":"X","schema_version":4}`+"\n")
	contains(t, "version", cli("", "version").stdout, "schema version 4")
}

func TestTheProgramLinksNoTestCode(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	for pkg := range strings.Lines(string(output)) {
		if pkg = strings.TrimSpace(pkg); strings.HasSuffix(pkg, "/pgtest") {
			t.Errorf("it links %s", pkg)
		}
	}
}

func TestMessagesAreOneLineWithoutControlCharacters(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"plain text", "plain text"},
		{"two\n\tlines", "two lines"},
		{"twice\n\ttwice\nthen", "twice then"},
		{"a\x1b[31mred\x07\u202ebell", "a [31mred bell"},
		{"ünïcode 🍏", "ünïcode 🍏"},
	} {
		wants(t, "oneLine", oneLine(tt.text), tt.want)
	}
}

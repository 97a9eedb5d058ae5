package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

var times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[\d:.]+Z"`)

// masked puts TIME in the place of the times.
func masked(s string) string { return times.ReplaceAllString(s, `"TIME"`) }

func TestMigrateGoesUpAndDownAndTellsWhereItIs(t *testing.T) {
	url := pgtest.Database(t)
	do := func(code int, args ...string) result {
		t.Helper()
		r := cli("", append([]string{"--database-url", url, "migrate"}, args...)...)
		if r.code != code {
			t.Fatalf("migrate %q: got exit code %d and %q, want %d", args, r.code, r.stderr, code)
		}
		return r
	}
	status := func(want string) {
		t.Helper()
		wants(t, "status", masked(do(exitOK, "status", "--json").stdout), want+"\n")
	}
	const empty = `{"table":"\"public\".\"queue\"","version":0,"latest":4,"migrations":[{"version":1,"name":"schema","applied_at":null},{"version":2,"name":"functions","applied_at":null},{"version":3,"name":"triggers","applied_at":null},{"version":4,"name":"operations","applied_at":null}]}`
	const one = `{"table":"\"public\".\"queue\"","version":1,"latest":4,"migrations":[{"version":1,"name":"schema","applied_at":"TIME"},{"version":2,"name":"functions","applied_at":null},{"version":3,"name":"triggers","applied_at":null},{"version":4,"name":"operations","applied_at":null}]}`
	const full = `{"table":"\"public\".\"queue\"","version":4,"latest":4,"migrations":[{"version":1,"name":"schema","applied_at":"TIME"},{"version":2,"name":"functions","applied_at":"TIME"},{"version":3,"name":"triggers","applied_at":"TIME"},{"version":4,"name":"operations","applied_at":"TIME"}]}`
	status(empty)
	do(exitOK, "up", "--to", "1")
	status(one)
	contains(t, "table", do(exitOK, "status").stdout, "3        triggers    pending")
	do(exitUsage, "down", "--to", "2", "--yes")
	contains(t, "message", do(exitOK, "up").stderr, `"public"."queue" is at version 4`)
	status(full)
	do(exitOK, "up")
	do(exitUsage, "up", "--to", "1")
	do(exitUsage, "up", "--to", "0")
	do(exitUsage, "up", "--to", "5")
	do(exitUsage, "down", "--to", "0")
	if help := cli("", "migrate", "down", "--help").stdout; regexp.MustCompile(`--to version.*default`).MatchString(help) {
		t.Errorf("help of down: got %q, want no default for a flag that has to be given", help)
	}
	status(full)
	do(exitOK, "down", "--to", "1", "--yes")
	status(one)
	do(exitOK, "down", "--to", "0", "--yes")
	status(empty)
}

func TestMigrateKeepsToTheTableItIsGiven(t *testing.T) {
	d := newDatabase(t)
	own := []string{"--schema", "Orchard", "--table", "jobs_2"}
	d.must(append(own, "migrate", "up")...)
	d.must(append(own, "put", "apples", `"there"`)...)
	d.must("put", "apples", `"here"`)
	wants(t, "job there", d.must(append(own, "get", "apples")...), "\"there\"\n")
	d.must(append(own, "migrate", "down", "--to", "0", "--yes")...)
	wants(t, "job here", d.must("get", "apples"), "\"here\"\n")
}

func TestThePrintedScriptDoesWhatMigrateDoes(t *testing.T) {
	url := pgtest.Database(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	printed := func(args ...string) string {
		r := cli("", append([]string{"migrate", "print"}, args...)...)
		if r.code != exitOK || r.stderr != "" {
			t.Fatalf("print %q: got exit code %d and %q", args, r.code, r.stderr)
		}
		return r.stdout
	}
	execute := func(script string) {
		t.Helper()
		if _, err := conn.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	version := func() (v struct{ Version int }) {
		t.Helper()
		r := cli("", "--database-url", url, "migrate", "status", "--json")
		if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
			t.Fatalf("%v: %q", err, r.stderr)
		}
		return v
	}
	execute(printed())
	if got := version(); got.Version != 4 {
		t.Fatalf("version after up: got %d, want 4", got.Version)
	}
	wants(t, "id", cli("", "--database-url", url, "put", "apples", "1").stdout, "1\n")
	execute(printed("--direction", "down"))
	if got := version(); got.Version != 0 {
		t.Fatalf("version after down: got %d, want 0", got.Version)
	}

	// The other tools split their file at these lines and send each half as one query.
	for format, marks := range map[string]struct{ lines, up, down string }{
		"goose":  {`(?m)^-- \+goose .*\n`, "-- +goose Up\n-- +goose StatementBegin\n", "-- +goose StatementEnd\n\n-- +goose Down\n-- +goose StatementBegin\n"},
		"tern":   {`(?m)^---- .*\n`, "", "---- create above / drop below ----\n"},
		"dbmate": {`(?m)^-- migrate:.*\n`, "-- migrate:up\n", "-- migrate:down\n"},
	} {
		text := printed("--format", format)
		before, after, found := strings.Cut(text, marks.down)
		if !found || !strings.HasPrefix(before, marks.up) {
			t.Fatalf("%s: got %.80q..., want the marks %q and %q", format, text, marks.up, marks.down)
		}
		if format == "tern" && strings.Contains(text, "{{") {
			t.Errorf("tern: got a template's action in the file")
		}
		plain := regexp.MustCompile(marks.lines)
		execute("begin;" + plain.ReplaceAllString(before, "") + "commit")
		if got := version(); got.Version != 4 {
			t.Errorf("version after %s up: got %d, want 4", format, got.Version)
		}
		execute("begin;" + plain.ReplaceAllString(after, "") + "commit")
		if got := version(); got.Version != 0 {
			t.Errorf("version after %s down: got %d, want 0", format, got.Version)
		}
	}
}

func TestThePrintedScriptRunsInPsql(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed")
	}
	url := pgtest.Database(t)
	file := filepath.Join(t.TempDir(), "up.sql")
	if err := os.WriteFile(file, []byte(cli("", "migrate", "print").stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if r := cli("", "--database-url", url, "put", "apples", "1"); r.code != exitOK {
		t.Errorf("put: got %q, want no error", r.stderr)
	}
}

func TestAStandbyExitsWith1AndPointsToThePrimary(t *testing.T) {
	primary := pgtest.Server(t, devpg.Options{})
	if r := cli("", "--database-url", primary.URL(""), "migrate", "up"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { standby.Close() })
	for _, command := range []string{"put apples 1", "work apples -- true"} {
		r := cli("", append([]string{"--database-url", standby.URL("")}, strings.Fields(command)...)...)
		r.stderr = r.stderr[strings.Index(r.stderr, "pq-dispatch: "):] // after what a dispatcher may log
		r.failsWith(t, exitFailed, "standby", "primary")
	}
}

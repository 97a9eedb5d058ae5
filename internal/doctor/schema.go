// The tables and what belongs to them, against what the migrations make; and what the role may do.

package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func schema(ctx context.Context, p *patient) (Finding, error) {
	switch err := p.jobs.CheckSchema(ctx); {
	case errors.Is(err, store.ErrNotMigrated):
		return problem("run 'pq-dispatch migrate up'", "%s is not migrated, or to an older version", p.jobs.Table()), nil
	case errors.Is(err, store.ErrNewerSchema):
		return problem("update this program", "%s was migrated by a newer version of this program", p.jobs.Table()), nil
	case err != nil:
		return Finding{}, err
	}
	return ok("%s is at version %d", p.jobs.Table(), sql.Version), nil
}

// script is all migrations, as they are run.
func (p *patient) script() (string, error) {
	migrations, err := sql.Migrations(p.Names)
	var b strings.Builder
	for _, m := range migrations {
		b.WriteString(m.Up)
	}
	return b.String(), err
}

var (
	createFunction = regexp.MustCompile(`(?m)^create function "[^"]+"\.(\w+)\(`)
	createIndex    = regexp.MustCompile(`(?m)^create index "([^"]+)" on [^;]+`)
)

func objects(ctx context.Context, p *patient) (Finding, error) {
	script, err := p.script()
	if err != nil {
		return Finding{}, err
	}
	var names []string
	for _, m := range createFunction.FindAllStringSubmatch(script, -1) {
		names = append(names, m[1])
	}
	rows, err := p.conn.Query(ctx, `
		select name || '()'
		from pg_catalog.unnest($1::text[]) name
		where not exists (select from pg_proc where pronamespace = $2::text::regnamespace and proname = name)
		union all
		select t
		from pg_catalog.unnest($3::text[]) t
		where to_regclass(t) is null or not exists (select from pg_constraint where conrelid = to_regclass(t) and contype = 'p')
		order by 1`, names, pgx.Identifier{p.Names.Support()}.Sanitize(),
		[]string{p.jobs.Table(), p.function("ledger"), p.function("pauses"), p.function("cancels"), p.function("schema_version")})
	if err != nil {
		return Finding{}, err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return Finding{}, err
	}
	if len(missing) > 0 {
		return problem("make them again as in 'pq-dispatch migrate print', or restore a backup",
			"missing, or without primary key: %s", strings.Join(missing, ", ")), nil
	}
	return ok("all %d functions and the tables are there", len(names)), nil
}

// plain is a definition without what PostgreSQL writes otherwise than people do.
func plain(definition string) string {
	definition = strings.NewReplacer("(", " ", ")", " ", `"`, "", ";", "", " USING btree", "").Replace(definition)
	return strings.ToLower(strings.Join(strings.Fields(definition), " "))
}

func indexes(ctx context.Context, p *patient) (Finding, error) {
	script, err := p.script()
	if err != nil {
		return Finding{}, err
	}
	wanted := map[string]string{}
	for _, m := range createIndex.FindAllStringSubmatch(script, -1) {
		wanted[m[1]] = m[0]
	}
	rows, err := p.conn.Query(ctx, `
		select c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid and i.indisready
		from pg_index i
		join pg_class c on c.oid = i.indexrelid
		where i.indrelid = to_regclass($1)`, p.jobs.Table())
	if err != nil {
		return Finding{}, err
	}
	var wrong []string
	var name, definition string
	var valid bool
	found := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&name, &definition, &valid}, func() error {
		found[name] = true
		switch want, ours := wanted[name]; {
		case !valid:
			wrong = append(wrong, name+" is invalid")
		case ours && plain(definition) != plain(want):
			wrong = append(wrong, name+" is another one: "+definition)
		}
		return nil
	})
	if err != nil {
		return Finding{}, err
	}
	for _, name := range sorted(wanted) {
		if !found[name] {
			wrong = append(wrong, name+" is missing")
		}
	}
	if len(wrong) > 0 {
		var remedies []string
		for _, name := range sorted(wanted) {
			if strings.Contains(strings.Join(wrong, "\n"), name+" is ") {
				drop := ""
				if found[name] {
					drop = "drop index " + pgx.Identifier{p.Names.Identifier()[0], name}.Sanitize() + "; "
				}
				create := strings.Join(strings.Fields(wanted[name]), " ")
				remedies = append(remedies, drop+strings.Replace(create, "create index", "create index concurrently", 1)+";")
			}
		}
		if remedies == nil {
			remedies = []string{"drop it, or reindex it concurrently"}
		}
		return problem(strings.Join(remedies, " "), "%s: claims read the whole table", strings.Join(wrong, "; ")), nil
	}
	return ok("all %d are there and valid", len(wanted)), nil
}

func trigger(ctx context.Context, p *patient) (Finding, error) {
	var enabled *string
	var role string
	err := p.conn.QueryRow(ctx, `
		select (select tgenabled::text from pg_trigger where tgrelid = to_regclass($1) and tgname = 'pq_dispatch_put'),
		       current_setting('session_replication_role')`, p.jobs.Table()).Scan(&enabled, &role)
	if err != nil {
		return Finding{}, err
	}
	notify, err := setting(ctx, p.conn, "pq_dispatch.notify")
	const cost = "nobody is woken by a put: jobs wait for a sweep, up to 10 s"
	switch {
	case err != nil:
		return Finding{}, err
	case enabled == nil:
		return problem("make it again as in 'pq-dispatch migrate print'", "pq_dispatch_put is missing: %s", cost), nil
	case *enabled == "D" || *enabled == "R":
		return problem("alter table "+p.jobs.Table()+" enable trigger pq_dispatch_put", "pq_dispatch_put is disabled: %s", cost), nil
	case role == "replica" && *enabled != "A":
		return problem("set session_replication_role to origin for those who put", "session_replication_role is replica, so that pq_dispatch_put does not fire: %s", cost), nil
	case notify == "off":
		return warning("set pq_dispatch.notify only in sessions that use PREPARE TRANSACTION", "pq_dispatch.notify is off for this role or database: %s", cost), nil
	case notify == "always":
		return warning("reset pq_dispatch.notify, unless a listener of your own has to hear of each put", "pq_dispatch.notify is always: transactions that put commit one after another"), nil
	}
	return ok("pq_dispatch_put is enabled"), nil
}

// abilities are what a role may want to do, and what each needs beyond the one before.
var abilities = []struct {
	name   string
	needed []privilege
}{
	{"put", []privilege{{"", "usage"}, {"queue", "insert"}, {"queue", "select"}}},
	{"work", []privilege{{"queue", "update"}, {"queue", "delete"}, {"pauses", "select"}, {"schema_version", "select"},
		{"ledger", "select"}, {"ledger", "insert"}, {"ledger", "delete"}, {"cancels", "select"}}},
	{"operate", []privilege{{"pauses", "insert"}, {"pauses", "update"}, {"pauses", "delete"},
		{"cancels", "insert"}, {"cancels", "update"}, {"cancels", "delete"}}},
}

// privilege on a table; "" is the schema beside the queue.
type privilege struct{ table, name string }

func privileges(ctx context.Context, p *patient) (Finding, error) {
	var role string
	if err := p.conn.QueryRow(ctx, `select current_user`).Scan(&role); err != nil {
		return Finding{}, err
	}
	support := p.Names.Support()
	var may, mayNot, grants []string
	for _, a := range abilities {
		var missing []string
		for _, need := range a.needed {
			// By oid: a name in a schema that the role may not use is an error.
			in, table, on := support, need.table, "schema "+pgx.Identifier{support}.Sanitize()
			query := `select (select has_schema_privilege(oid, $3) from pg_namespace where nspname = $1 and $2 = '')`
			if table == "queue" {
				in, table = p.Names.Identifier()[0], p.Names.Identifier()[1]
			}
			if table != "" {
				on = pgx.Identifier{in, table}.Sanitize()
				query = `select (select has_table_privilege(oid, $3) from pg_class where relnamespace = (select oid from pg_namespace where nspname = $1) and relname = $2)`
			}
			var has *bool
			if err := p.conn.QueryRow(ctx, query, in, table, need.name).Scan(&has); err != nil {
				return Finding{}, err
			}
			if has == nil {
				return ok("%s: the tables are not there yet", role), nil
			}
			if !*has {
				missing = append(missing, need.name+" on "+on)
				grants = append(grants, fmt.Sprintf("grant %s on %s to %s;", need.name, on, pgx.Identifier{role}.Sanitize()))
			}
		}
		switch {
		case missing == nil && mayNot == nil:
			may = append(may, a.name)
		case missing == nil:
			mayNot = append(mayNot, a.name)
		default:
			mayNot = append(mayNot, fmt.Sprintf("%s (needs %s)", a.name, strings.Join(missing, ", ")))
		}
	}
	switch {
	case mayNot == nil:
		return ok("%s may %s", role, strings.Join(may, ", ")), nil
	case may == nil:
		return problem(strings.Join(grants, " "), "%s may not %s", role, strings.Join(mayNot, ", nor ")), nil
	}
	return warning("if it is to: "+strings.Join(grants, " "), "%s may %s, but not %s", role, strings.Join(may, ", "), strings.Join(mayNot, ", nor ")), nil
}

func monitoring(ctx context.Context, p *patient) (Finding, error) {
	var sees bool
	var role string
	if err := p.conn.QueryRow(ctx, `select current_user, pg_has_role('pg_read_all_stats', 'usage')`).Scan(&role, &sees); err != nil {
		return Finding{}, err
	}
	if !sees {
		return warning("grant pg_read_all_stats to "+pgx.Identifier{role}.Sanitize()+", or run doctor as another role",
			"%s sees no more of other roles' sessions than their number: what is said below of sessions and transactions is of its own", role), nil
	}
	return ok("%s sees all sessions", role), nil
}

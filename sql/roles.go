package sql

import (
	_ "embed"

	"github.com/jackc/pgx/v5"
)

//go:embed roles.sql
var roles string

// Roles are the names of the group roles of a queue table. roles.sql says what each may do.
type Roles struct {
	Enqueue string // puts jobs, and reads none
	Worker  string // runs and operates jobs; puts none
	Reader  string // looks at everything
	Owner   string // owns the table and its schema
}

// Roles are pq_dispatch_enqueue and so on, with the name of the support schema in the place of pq_dispatch.
func (n Names) Roles() Roles {
	return Roles{n.role("enqueue"), n.role("worker"), n.role("reader"), n.role("owner")}
}

func (n Names) role(suffix string) string { return fit(n.prefix() + "_" + suffix) }

// CreateRoles is the script that makes the roles and gives them their rights, for a database that is at
// the version of this build. It may be run again.
func CreateRoles(n Names) (string, error) {
	if err := n.Validate(); err != nil {
		return "", err
	}
	return render(roles, n), nil
}

// Role is the quoted name of one of the roles.
func (v view) Role(suffix string) string { return pgx.Identifier{v.names.role(suffix)}.Sanitize() }

// Literal is a role's name as a text.
func (v view) Literal(suffix string) string { return literal(v.names.role(suffix)) }

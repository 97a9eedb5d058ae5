// version: which build this is.

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this build",
		Example: `  pq-dispatch version
  pq-dispatch version --json`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = a.do(func(context.Context, []string) error {
		v := build()
		if asJSON {
			return printJSON(a.stdout, v)
		}
		_, err := fmt.Fprintf(a.stdout, "pq-dispatch %s (%s, schema version %d)\n", v.Version, v.Go, v.Schema)
		return err
	})
	return cmd
}

type buildVersion struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // of the source; empty: not known
	Go       string `json:"go"`
	Schema   int    `json:"schema_version"`
}

func build() buildVersion {
	v := buildVersion{Version: "(devel)", Go: runtime.Version(), Schema: sql.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}

// healthcheck: asks a daemon how it is, where there is no other program to do so.

package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/admin"
)

// healthTime is longer than the daemon takes to say that something does not answer, and less than a container's
// health check waits for us.
const healthTime = 2500 * time.Millisecond

func (a *app) healthcheckCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "healthcheck ADDRESS",
		Short: "Ask a daemon whether it is ready",
		Long: `Asks the daemon that listens on the address, which is the http.address of its configuration, whether it is ready.
It is for the health checks of containers that have no other program to ask with.

Exit codes: 0 it is; 1 it is not, or does not answer within 2.5 s.`,
		Example: `  pq-dispatch healthcheck 127.0.0.1:9464
  pq-dispatch healthcheck 127.0.0.1:9464 --path /livez`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&path, "path", "/readyz", "what is asked: `path` /readyz or /livez")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if !strings.HasPrefix(path, "/") {
			return &usageError{"--path begins with /, such as /livez"}
		}
		asking, cancel := context.WithTimeout(ctx, healthTime)
		defer cancel()
		if err := admin.Ask(asking, args[0], path); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "admin: ")) // of no kind with an exit code of its own
		}
		return nil
	})
	return cmd
}

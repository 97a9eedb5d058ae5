// The other side of a probe: what a container's health check runs, where there is no shell and no curl.

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxAnswer is how much of a failed probe's answer is repeated, in bytes.
const maxAnswer = 4 << 10

// Ask probes the daemon that listens on the address, as its configuration says it: http.address. A host that
// means all of this machine's is asked on its loopback. The path is /livez or /readyz. An answer other than
// 200 is an error that holds it; ctx has to bound the wait.
func Ask(ctx context.Context, address, path string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("admin: give the http.address of the daemon: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	// Of its own: a proxy from the environment knows nothing of this host's loopback.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("admin: no daemon answers: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode == http.StatusOK && err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("admin: %s: %s: %s", path, response.Status, strings.TrimSpace(string(answer))), err)
}

// Where the PostgreSQL programs are: a named directory, an installation, or a download.

package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// places are where an installation is looked for, in this order.
type places struct {
	named    string   // from EnvBin: this one or none
	path     []string // the directories of PATH
	pgConfig string   // the program to ask, may be empty
	globs    []string // where packages put their bin directories; the newest of all wins
}

func systemPlaces() places {
	pgConfig, _ := exec.LookPath("pg_config")
	return places{
		named:    os.Getenv(EnvBin),
		path:     filepath.SplitList(os.Getenv("PATH")),
		pgConfig: pgConfig,
		globs: []string{
			"/usr/lib/postgresql/*/bin",            // Debian, Ubuntu
			"/usr/pgsql-*/bin",                     // the PostgreSQL project's RPMs
			"/opt/homebrew/opt/postgresql*/bin",    // Homebrew on Apple silicon
			"/usr/local/opt/postgresql*/bin",       // Homebrew on Intel
			"/Applications/Postgres.app/*/*/*/bin", // Contents/Versions/17
			`C:\Program Files\PostgreSQL\*\bin`,    // the Windows installer
			"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		},
	}
}

// search returns the bin directory to use: one in these places, else a download kept in cache.
func (p places) search(ctx context.Context, cache string, o Options) (string, error) {
	dir, tried, err := p.find(ctx)
	if dir != "" || err != nil {
		return dir, err
	}
	if ctx.Err() != nil { // it is why none works
		return "", ctx.Err()
	}
	dir, err = download(ctx, cache, o)
	if err != nil {
		return "", fmt.Errorf("no PostgreSQL %d or newer on this machine:\n\t%s\n\tdownload: %w\n"+
			"install it (apt install postgresql, dnf install postgresql-server, brew install postgresql), or set %s to its bin directory, or %s to the URL of a running server",
			MinVersion, strings.Join(tried, "\n\t"), err, EnvBin, EnvURL)
	}
	return dir, nil
}

// download returns the bin directory of the PostgreSQL kept in cache, downloading it if need be.
func download(ctx context.Context, cache string, o Options) (string, error) {
	home := filepath.Join(cache, "postgresql")
	bin := filepath.Join(home, "bin")
	if _, _, err := inspect(ctx, bin); err == nil {
		return bin, nil
	}
	if o.Download == nil {
		return "", errors.New("not asked for")
	}
	if o.Log != nil {
		fmt.Fprintf(o.Log, "devpg: no PostgreSQL is installed here; downloading one into %s\n", home)
	}
	if err := o.Download(ctx, home); err != nil {
		return "", err
	}
	_, _, err := inspect(ctx, bin)
	return bin, err
}

// cacheDir is where a download is kept. Root's own cache directory is closed to the account that
// PostgreSQL runs as.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if a, _ := serviceAccount(); a != nil {
		dir = "/var/cache"
	} else if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "pq-dispatch")
}

// find returns the first installation that works, or why each one it saw does not. A named directory
// that does not work is an error: whoever names one does not want to test with another.
func (p places) find(ctx context.Context) (dir string, tried []string, err error) {
	if p.named != "" {
		dir, _, err := inspect(ctx, p.named)
		if err != nil {
			return "", nil, fmt.Errorf("%s=%s: %w; name the bin directory of a PostgreSQL %d or newer, or unset it", EnvBin, p.named, err, MinVersion)
		}
		return dir, nil, nil
	}

	try := func(origin, dir string) (string, int) {
		resolved, major, err := inspect(ctx, dir)
		if err != nil {
			tried = append(tried, fmt.Sprintf("%s: %s: %v", origin, dir, err))
			return "", 0
		}
		return resolved, major
	}
	inPath := false
	for _, candidate := range p.path {
		if !executable(candidate, "postgres") {
			continue
		}
		inPath = true
		if dir, _ := try("PATH", candidate); dir != "" {
			return dir, tried, nil
		}
	}
	if !inPath {
		tried = append(tried, "PATH: holds no postgres")
	}
	if p.pgConfig == "" {
		tried = append(tried, "pg_config: not in PATH")
	} else if output, err := exec.CommandContext(ctx, p.pgConfig, "--bindir").Output(); err != nil {
		tried = append(tried, fmt.Sprintf("pg_config: %v", err))
	} else if dir, _ := try("pg_config", strings.TrimSpace(string(output))); dir != "" {
		return dir, tried, nil
	}
	newest := 0
	for _, glob := range p.globs {
		matches, _ := filepath.Glob(glob)
		if len(matches) == 0 {
			tried = append(tried, glob+": not there")
		}
		for _, match := range matches {
			if resolved, major := try("installed", match); major > newest {
				dir, newest = resolved, major
			}
		}
	}
	return dir, tried, nil
}

// inspect reports the directory that really holds the programs, and their major version. A directory
// of links to them may not link them all.
func inspect(ctx context.Context, dir string) (resolved string, major int, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", 0, err
	}
	if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"+exeSuffix)); err == nil && executable(filepath.Dir(real), "initdb") {
		dir = filepath.Dir(real)
	}
	for _, program := range []string{"postgres", "initdb"} {
		if !executable(dir, program) {
			return "", 0, fmt.Errorf("has no %s", program)
		}
	}
	a, err := serviceAccount()
	if err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.Command(filepath.Join(dir, "postgres"), "--version")
	cmd.Dir, cmd.Env = "/", environment()
	isolate(cmd, a) // as the user that it is to run as, who may not be let in
	output, err := run(ctx, cmd)
	if err != nil {
		return "", 0, err
	}
	major, err = parseVersion(output)
	if err == nil && major < MinVersion {
		err = fmt.Errorf("version %d is too old", major)
	}
	return dir, major, err
}

// parseVersion reads the major version from, say, "postgres (PostgreSQL) 15.18 (Debian 15.18-0)" or "... 19beta1".
func parseVersion(output string) (int, error) {
	_, rest, found := strings.Cut(output, "(PostgreSQL) ")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if found && end > 0 {
		if major, err := strconv.Atoi(rest[:end]); err == nil {
			return major, nil
		}
	}
	return 0, fmt.Errorf("postgres --version says %q", strings.TrimSpace(output))
}

// executable reports whether dir holds the program.
func executable(dir, program string) bool {
	_, err := exec.LookPath(filepath.Join(dir, program+exeSuffix))
	return err == nil && dir != ""
}

// The application's clock and the database's are an hour apart. Only the database's may count.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// A program's clock cannot be set without setting the machine's, but the server's can, by a library that stands in for
// the system's: so it is the server that lives an hour later or earlier than all the others.
var _ = register(
	clockFault("clock-behind", "the application's clock is an hour behind the server's", time.Hour),
	clockFault("clock-ahead", "the application's clock is an hour ahead of the server's", -time.Hour),
)

func clockFault(name, about string, off time.Duration) scene.Fault {
	return scene.Fault{
		Name:   name,
		Family: "clock",
		About:  about,
		Needs: scene.Needs{
			Own: true, // its times are of no use to others
			Missing: func() string {
				if _, err := compiler(); err != nil {
					return err.Error()
				}
				return ""
			},
			Start: func(ctx context.Context, o devpg.Options) (*devpg.Server, error) { return startOff(ctx, o, off) },
		},
		Inject: func(ctx context.Context, s *scene.Scene) error {
			// What is scheduled becomes due, fails and is retried meanwhile, all of it by that clock.
			if err := s.Wait(ctx, s.Long(20*time.Second, 4*time.Second)); err != nil {
				return err
			}
			var at time.Time
			if err := s.Admin.QueryRow(ctx, `select clock_timestamp()`).Scan(&at); err != nil {
				return err
			}
			if got := time.Until(at); (got - off).Abs() > time.Minute {
				return fmt.Errorf("the server's clock is off by %v, want %v", got, off)
			}
			return nil
		},
	}
}

// compiler is the one for C, without which no server has another clock.
func compiler() (string, error) {
	cc, err := exec.LookPath("cc")
	if err != nil || runtime.GOOS != "linux" {
		return "", errors.New("a server's clock is set apart by a small library in C, which takes Linux and a compiler (apt install gcc)")
	}
	return cc, nil
}

// clockSource stands before the C library's clocks, and leaves the monotonic one, by which PostgreSQL's timers go, as
// it is. (libfaketime does more than that: under it, a statement that sleeps or waits for a lock knows no timeout.)
const clockSource = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *t) {
	static int (*real)(clockid_t, struct timespec *);
	if (!real)
		real = dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(id, t);
	if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		t->tv_sec += OFF;
	return result;
}

int gettimeofday(struct timeval *t, void *zone) {
	struct timespec now;
	int result = clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return result;
}

time_t time(time_t *t) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (t)
		*t = now.tv_sec;
	return now.tv_sec;
}
`

// startOff starts a server whose clock is off. Its programs are started by scripts that put the library before the real
// ones: set in our own environment, it would come to all that we start.
func startOff(ctx context.Context, o devpg.Options, off time.Duration) (_ *devpg.Server, err error) {
	cc, err := compiler()
	if err != nil {
		return nil, err
	}
	bin, err := serverBin(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pq-dispatch-clock-")
	if err != nil {
		return nil, err
	}
	// A server that runs does not need it any more.
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	files := map[string]string{
		source:                         clockSource,
		filepath.Join(dir, "initdb"):   fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", filepath.Join(bin, "initdb")),
		filepath.Join(dir, "postgres"): fmt.Sprintf("#!/bin/sh\nLD_PRELOAD='%s' exec '%s' \"$@\"\n", library, filepath.Join(bin, "postgres")),
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	compile := exec.CommandContext(ctx, cc, "-shared", "-fPIC", "-O2", fmt.Sprintf("-DOFF=(%d)", int(off.Seconds())), "-o", library, source, "-ldl")
	if out, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the clock: %w\n%s", err, out)
	}
	former, named := os.LookupEnv(devpg.EnvBin)
	if err := os.Setenv(devpg.EnvBin, dir); err != nil {
		return nil, err
	}
	defer func() {
		if named {
			_ = os.Setenv(devpg.EnvBin, former)
		} else {
			_ = os.Unsetenv(devpg.EnvBin)
		}
	}()
	o.Own = true
	return devpg.Start(ctx, o)
}

// serverBin is the directory of the PostgreSQL that devpg would take.
func serverBin(ctx context.Context) (string, error) {
	if named := os.Getenv(devpg.EnvBin); named != "" {
		return named, nil
	}
	if pgConfig, err := exec.LookPath("pg_config"); err == nil {
		out, err := exec.CommandContext(ctx, pgConfig, "--bindir").Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL found; set %s to its bin directory", devpg.EnvBin)
	}
	return found[len(found)-1], nil
}

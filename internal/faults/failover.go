// Failovers: the primary is gone in an instant, its standby takes over, and the address moves there.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

const failoverFamily = "failover"

var _ = register(
	scene.Fault{
		Name: "failover", Family: failoverFamily,
		About:  "the server is gone, and its synchronous standby takes over",
		Needs:  scene.Needs{Own: true, Standby: scene.Synchronous, Missing: baseBackup, Slow: "who tries to reconnect in vain tries again within 7.5 s"},
		Inject: failOver,
	},
	scene.Fault{
		Name: "failover-lagging", Family: failoverFamily,
		About:  "the server is gone, and its standby takes over, which lacks the last moments; what those put is at work, and gives its ids to others",
		Needs:  scene.Needs{Own: true, Standby: scene.Asynchronous, Loses: true, Missing: baseBackup, Slow: "who tries to reconnect in vain tries again within 7.5 s"},
		Inject: failOverBehind,
	},
)

// baseBackup tells if there is no pg_basebackup beside the server's programs, by which standbys are made.
func baseBackup() string {
	bin, err := serverBin(context.Background())
	if err == nil {
		_, err = exec.LookPath(filepath.Join(bin, "pg_basebackup"))
	}
	if err != nil {
		return "pg_basebackup"
	}
	return ""
}

// failOver ends the server and puts its standby in its place.
func failOver(ctx context.Context, s *scene.Scene) error {
	if err := s.Server.Stop(ctx, devpg.Immediate); err != nil {
		return err
	}
	// As long as somebody needs to notice and decide.
	if err := s.Wait(ctx, s.Long(5*time.Second, time.Second)); err != nil {
		return err
	}
	if err := s.Standby.Promote(ctx); err != nil {
		return err
	}
	address, err := url.Parse(s.Standby.URL(s.Database))
	if err != nil {
		return errors.New("the standby's address is no URL")
	}
	config := s.Admin.Config()
	standby, err := pgxpool.ParseConfig(s.Standby.URL(s.Database))
	if err != nil {
		return errors.New("the standby's address is none of a pool")
	}
	config.ConnConfig.Host, config.ConnConfig.Port = standby.ConnConfig.Host, standby.ConnConfig.Port
	admin, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	s.Admin.Close()
	s.Server, s.Standby, s.Admin = s.Standby, s.Server, admin
	s.Proxy.Retarget(address.Host)
	return nil
}

// failOverBehind cuts the standby off before. All that was committed until a moment before has arrived there; what came
// later may be lost. Of that, some is at work, and ends when other jobs have its ids, and wait.
func failOverBehind(ctx context.Context, s *scene.Scene) error {
	standby, err := pgxpool.New(ctx, s.Standby.URL(s.Database))
	if err != nil {
		return err
	}
	defer standby.Close()

	boundary := journal.Now()
	var last string // what was told as committed by the boundary ends here
	if err := s.Admin.QueryRow(ctx, `select pg_current_wal_lsn()`).Scan(&last); err != nil {
		return err
	}
	const received = `select coalesce(pg_last_wal_receive_lsn() >= $1::pg_lsn, false)`
	if err := until(ctx, s, "the standby has what was committed", func() (has bool, err error) {
		err = standby.QueryRow(ctx, received, last).Scan(&has)
		return has, err
	}); err != nil {
		return err
	}
	for _, statement := range []string{`alter system set primary_conninfo = ''`, `select pg_reload_conf()`} {
		if _, err := standby.Exec(ctx, statement); err != nil {
			return err
		}
	}
	if err := until(ctx, s, "the standby is cut off", func() (off bool, err error) {
		err = standby.QueryRow(ctx, `select not exists (select from pg_stat_wal_receiver)`).Scan(&off)
		return off, err
	}); err != nil {
		return err
	}
	if err := s.Wait(ctx, s.Long(3*time.Second, time.Second)); err != nil {
		return err
	}
	atWork := s.Long(15*time.Second, 6*time.Second)
	if err := handOut(ctx, s, load{Kind: heedless, Work: int(atWork.Milliseconds())}); err != nil {
		return err
	}
	var has, primary string
	var behind int64
	if err := s.Admin.QueryRow(ctx, `select pg_current_wal_lsn()`).Scan(&primary); err != nil {
		return err
	}
	if err := standby.QueryRow(ctx, `select pg_last_wal_receive_lsn(), $1::pg_lsn - pg_last_wal_receive_lsn()`, primary).Scan(&has, &behind); err != nil {
		return err
	}
	s.Log.Info("the standby lags", "it has", has, "the server", primary, "bytes", behind, "before the boundary", last)
	if behind <= 0 {
		return errors.New("the standby lacks nothing: nothing was shown")
	}
	standby.Close()
	if err := failOver(ctx, s); err != nil {
		return err
	}
	s.Forgive(boundary)
	// Enough of them to have all ids that were lost. Their time comes when what is at work has ended.
	return newPutter(s).put(ctx, queues[1], make([]load, 1000), atWork)
}

// until waits for something that the fault itself has brought about.
func until(ctx context.Context, s *scene.Scene, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("it takes over 30 s"))
	defer cancel()
	for {
		switch done, err := holds(); {
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case done:
			return nil
		}
		if err := s.Wait(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

// Package pqdispatch is the front page of pq-dispatch, a transactional job queue in PostgreSQL and
// an event-driven dispatcher for it. It has no code of its own; the packages below do the work.
//
// A job is a row. It is put in the transaction of whoever needs it done, so it exists if and only if
// that transaction commits, and it is run, as soon as it is due, at least once or set aside with its
// reason.
//
//	jobs := store.New(pool, store.Options{})
//	id, err := jobs.Queue("apples").Put(ctx, Apple{"Cox"}, store.ScheduleAt("5m"))
//
//	d := dispatcher.New(jobs, dispatcher.Options{})
//	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
//		...
//	}))
//	err = d.Run(ctx)
//
// Nothing polls while it is idle: a trigger notifies whoever sleeps, a timer wakes for what is
// scheduled, and advisory locks decide which process runs a job. A notification is a hint, the table
// is the truth, and a sweep makes good what a lost hint would have told.
//
//   - [github.com/pq-dispatch/pq-dispatch/store] is the queue: migrate, put, get, count, and every
//     SQL statement of the project. A program that only puts needs no other package.
//   - [github.com/pq-dispatch/pq-dispatch/dispatcher] runs a handler for each job as it becomes due:
//     one event loop per process, any number of processes.
//   - [github.com/pq-dispatch/pq-dispatch/retry] says how long after a failure a job runs again,
//     or that it does not.
//   - [github.com/pq-dispatch/pq-dispatch/notify] keeps one listening connection for a process. The
//     dispatcher uses it, and so can an application that listens for something of its own.
//   - [github.com/pq-dispatch/pq-dispatch/sql] renders the migrations as plain SQL, for other tools.
//
// The program cmd/pq-dispatch does the same from a shell: it migrates, puts, gets, and runs a
// command for each job.
package pqdispatch

// Graphile Worker, as the comparison runs it: see protocol.mjs for how.
//
// default: nothing set, so one job at a time in a process, and each job is fetched and completed by a query of its own.
// tuned: the configuration of its own benchmark, perfTest/graphile.config.js.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { main, version } from "./protocol.mjs";

const task = "bench";

// perfTest runs with NO_LOG_SUCCESS=1; here nothing but errors is logged, in both.
const logger = new Logger((scope) => (level, message) => {
  if (level === "error") console.error(scope.label, message);
});

const tuned = {
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

await main({
  describe: {
    default: {
      Name: "Graphile Worker, default settings",
      Version: version("graphile-worker"),
      Settings: ["concurrentJobs 1 (default)", "pollInterval 2000 (default)", "no local queue, no batches (default)", "logs errors only"],
      Source: "https://worker.graphile.org/docs/config",
    },
    tuned: {
      Name: "Graphile Worker, its own benchmark's settings",
      Version: version("graphile-worker"),
      Settings: [
        ...Object.entries(tuned).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`),
        "logs errors only",
      ],
      Source: "https://worker.graphile.org/docs/performance and perfTest/graphile.config.js in its repository",
    },
  },

  async prepare({ DatabaseURL }) {
    const utils = await makeWorkerUtils({ connectionString: DatabaseURL, preset: { worker: { logger } } });
    await utils.migrate();
    await utils.release();
    return {
      Put: `select graphile_worker.add_job('${task}', payload => $1::text::json, run_at => $2::text::timestamptz)`,
      // As perfTest/init.js fills, but that the list is made on the server.
      Fill: `
        select count(*)
        from graphile_worker.add_jobs(array(
          select json_populate_record(
            null::graphile_worker.job_spec,
            json_build_object('identifier', '${task}', 'payload', json_build_object('id', id, 'stamp', 0)))
          from generate_series($1::bigint, $1::bigint + $2::bigint - 1) id))`,
    };
  },

  async work({ DatabaseURL, Settings, Concurrency }, jobs) {
    const options = Settings === "tuned" ? { ...tuned } : {};
    if (Concurrency) Object.assign(options, { concurrentJobs: Concurrency, maxPoolSize: Concurrency + 1 });
    const runner = await run({
      preset: { worker: { connectionString: DatabaseURL, logger, ...options } },
      noHandleSignals: true,
      taskList: {
        // Without anything to wait for it is no async function, as in perfTest/tasks/log_if_999.js.
        [task]: jobs.instant
          ? (data, { job }) => {
              jobs.enter(data, job.run_at);
              jobs.leave(data);
            }
          : async (data, { job }) => {
              jobs.enter(data, job.run_at);
              await jobs.work(job.attempts === 1);
              jobs.leave(data);
            },
      },
    });
    return () => runner.stop();
  },
});

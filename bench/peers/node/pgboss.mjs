// pg-boss, as the comparison runs it: see protocol.mjs for how.
//
// default: nothing set: "The default options for work() is 1 job every 2 seconds", says its documentation.
// tuned: what its documentation offers for latency and throughput. It names no size of a batch, so those here
// were tried: 1000 at a time drain a tenth faster, and take several times as long to pick a single job up. With
// notifications it polls every 30 s by default, which scheduled jobs, of which nobody is told, would wait for.

import { PgBoss } from "pg-boss";
import { main, version } from "./protocol.mjs";

const queue = "bench";
const documentation = "https://timgit.github.io/pg-boss/api/workers";

// Each job has a result of its own, as with all the others: without perJobResults a batch fails as a whole.
const tuned = {
  boss: { useListenNotify: true },
  queue: { notify: true },
  work: { batchSize: 100, perJobResults: true, localConcurrency: 10, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5, notifyPollingIntervalSeconds: 0.5 },
};

const pgboss = ({ DatabaseURL, Settings }) => {
  const boss = new PgBoss({ connectionString: DatabaseURL, ...(Settings === "tuned" && tuned.boss) });
  boss.on("error", console.error);
  return boss;
};
const list = (options) => Object.entries(options).map(([name, value]) => `${name} ${value}`);

await main({
  describe: {
    default: {
      Name: "pg-boss, default settings",
      Version: version("pg-boss"),
      Settings: ["batchSize 1 (default)", "localConcurrency 1 (default)", "pollingIntervalSeconds 2 (default)"],
      Source: documentation,
    },
    tuned: {
      Name: "pg-boss, batches and notify",
      Version: version("pg-boss"),
      Settings: [...list(tuned.boss), ...list(tuned.queue), ...list(tuned.work)],
      Source: documentation,
    },
  },

  async prepare(settings) {
    const boss = pgboss(settings);
    await boss.start();
    await boss.createQueue(queue, settings.Settings === "tuned" ? tuned.queue : {});

    // The very statements of send() and insert(), by the option db, which is for a connection of one's own.
    const statement = async (call, jobs) => {
      let found;
      const executeSql = async (text, values) => {
        found ??= { text, values };
        return { rows: [{ id: "00000000-0000-0000-0000-000000000000" }] };
      };
      await call({ executeSql });
      const parts = found.text.split("$1::text::json");
      if (parts.length !== 2) throw new Error(`pg-boss inserts in another way than before: ${found.text}`);
      return parts.join(`(${jobs})`);
    };
    const Put = await statement(
      (db) => boss.send(queue, {}, { db }),
      `select json_build_array(json_build_object('data', $1::text::json, 'startAfter', $2::text))`,
    );
    const Fill = await statement(
      (db) => boss.insert(queue, [{ data: {} }], { db }),
      `select json_agg(json_build_object('data', json_build_object('id', id, 'stamp', 0)))
       from generate_series($1::bigint, $1::bigint + $2::bigint - 1) id`,
    );
    await boss.stop({ graceful: false });
    return { Put, Fill };
  },

  async work(settings, jobs) {
    const { Settings, Concurrency, Measure, Hold } = settings;
    const boss = pgboss(settings);
    await boss.start();
    const options = Settings === "tuned" ? { ...tuned.work } : {};
    if (Concurrency) options.localConcurrency = Concurrency;
    if (Measure === "schedule" || Hold) options.includeMetadata = true; // when it was due, how often it has run
    const handle = async ({ data, startAfter, retryCount }) => {
      jobs.enter(data, startAfter);
      if (!jobs.instant) await jobs.work(retryCount === 0);
      jobs.leave(data);
    };
    await boss.work(queue, options, async (batch) => {
      await Promise.all(batch.map(handle));
      if (options.perJobResults) return batch.map(({ id }) => ({ id, status: "completed" }));
    });
    return () => boss.stop({ timeout: 4_000 }); // ms, for what runs
  },
});

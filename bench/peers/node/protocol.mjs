// What every contender on Node shares: the protocol by which the comparison, a Go program, runs it.
//
//   node graphile.mjs [work]     settings come as one line of JSON on stdin, messages go as lines of JSON to stdout;
//                                stdin's end stops it
//   node graphile.mjs prepare    reads {"DatabaseURL", "Settings"}, creates the tables, and prints one line:
//                                {"Ready":true, "Put":sql, "Fill":sql}
//                                Put takes $1, a job's data as the text of JSON, and $2, when to run it as the text
//                                of a time with its zone, or null for now. Fill takes $1, the first id, and $2, how
//                                many jobs. Both are run from Go: so the cost of a put is the server's, for each
//                                contender alike, and not that of Node.
//   node graphile.mjs describe   prints {"default":{...}, "tuned":{...}}, each a contender of the results with
//                                Name, Version, Settings and Source
//
// A job's data is {"id":N, "stamp":ns since 1970, or 0}.

import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";

const reporting = 10; // ms between two messages at least; without news there is none
const patience = 5_000; // ms for a contender that was told to stop

/** The time in ns since 1970: good to a fraction of a µs, where Date has whole ms. */
export const now = () => Math.round((performance.timeOrigin + performance.now()) * 1e6);

/**
 * Runs this program as its arguments say. A contender has
 *   describe: what describe prints
 *   prepare(settings): migrates, and returns Put and Fill
 *   work(settings, jobs): starts to run jobs, and returns a function that stops it
 */
export async function main(contender) {
  const [mode = "work"] = process.argv.slice(2);
  if (mode === "describe") return say(contender.describe);
  const lines = createInterface({ input: process.stdin });
  const ended = new Promise((resolve) => lines.once("close", resolve));
  const line = await Promise.race([new Promise((resolve) => lines.once("line", resolve)), ended]);
  if (line === undefined) throw new Error("no settings on standard input");
  const settings = JSON.parse(line);
  if (!(settings.Settings in contender.describe)) {
    throw new Error(`Settings is ${settings.Settings}, and has to be one of ${Object.keys(contender.describe)}`);
  }
  switch (mode) {
    case "prepare":
      say({ Ready: true, ...(await contender.prepare(settings)) });
      break;
    case "work": {
      const jobs = new Jobs(settings);
      const stop = await contender.work(settings, jobs);
      jobs.ready = true;
      jobs.tell();
      await ended;
      const timer = setTimeout(() => jobs.end(), patience);
      await stop();
      clearTimeout(timer);
      jobs.end();
      break;
    }
    default:
      throw new Error(`there is no mode ${mode}: work, prepare, describe`);
  }
  process.exit(0); // whatever a library has left behind
}

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n"); // a pipe: it returns when all is written
}

/** The version of an installed package. */
export function version(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url), "utf8")).version;
}

/** The jobs that this process has run, and what it tells about them. */
export class Jobs {
  ready = false;
  #settings;
  #done = 0;
  #first = 0;
  #last = 0;
  #starts = [];
  #ends = [];
  #delays = new Histogram();
  #early = 0;
  #timer = null; // runs until the next message may be sent
  #news = false;

  constructor(settings) {
    this.#settings = settings;
  }

  /** Is a handler over as soon as it was entered? */
  get instant() {
    return !this.#settings.WorkMS && !this.#settings.Hold;
  }

  /** A handler was entered. due, a Date, is looked at if the delay is measured from it. */
  enter(data, due) {
    const at = now();
    if (!this.#first) this.#first = at;
    const since = { stamp: data.stamp, schedule: due && due.getTime() * 1e6 }[this.#settings.Measure];
    if (since) {
      if (at < since) this.#early++;
      this.#delays.record((at - since) / 1000);
    }
    if (this.#settings.Starts) {
      this.#starts.push({ ID: data.id, At: at });
      this.tell();
    }
  }

  /** What a handler does in between: it works, or holds a job that runs for the first time. */
  work(isFirstRun) {
    if (this.#settings.Hold && isFirstRun) return new Promise(() => {}); // until this process is killed
    if (this.#settings.WorkMS) return new Promise((resolve) => setTimeout(resolve, this.#settings.WorkMS));
  }

  /** A handler returns. data is that of its job. */
  leave(data) {
    this.#done++;
    this.#last = now();
    if (this.#settings.Starts) this.#ends.push({ ID: data.id, At: this.#last });
    this.tell();
  }

  tell() {
    this.#news = true;
    this.#timer ??= setTimeout(() => this.#report(), 0);
  }

  #report() {
    this.#timer = null;
    if (!this.#news) return;
    say(this.#message());
    this.#timer = setTimeout(() => this.#report(), reporting);
  }

  #message() {
    const message = { Ready: this.ready, Done: this.#done, First: this.#first, Last: this.#last };
    if (this.#starts.length) message.Starts = this.#starts;
    if (this.#ends.length) message.Ends = this.#ends;
    this.#starts = [];
    this.#ends = [];
    this.#news = false;
    return message;
  }

  /** Sends the last message, and ends the process. */
  end() {
    say({ ...this.#message(), Delays: this.#delays.buckets(), Early: this.#early });
    process.exit(0);
  }
}

/** Counts µs in buckets of at most 1.6 % of their value. */
export class Histogram {
  #counts = new Map(); // by upper bound

  record(us) {
    const upper = Histogram.upper(us);
    this.#counts.set(upper, (this.#counts.get(upper) ?? 0) + 1);
  }

  /** The bound of the bucket that us falls in; what is below 1 counts as 1. */
  static upper(us) {
    us = Math.max(1, Math.ceil(us));
    const width = 2 ** Math.max(0, Math.floor(Math.log2(us)) - 6);
    return Math.ceil(us / width) * width;
  }

  /** [upper bound in µs, count], in order. */
  buckets() {
    return [...this.#counts].sort(([a], [b]) => a - b);
  }
}

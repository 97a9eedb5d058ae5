#!/usr/bin/env node
// A worker for pq-dispatch: it stays, and gets one job after another. See docs/workers.md.

import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

console.log = console.error; // a stray log must not end up in the protocol
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');

/** The work. What it throws is the job's error. */
async function run(job, signal) {
  const { data } = job;
  if (typeof data?.sleep === 'number') {
    await sleep(data.sleep * 1000, undefined, { signal });
  } else if (typeof data?.kind === 'string') {
    console.error(`ate a ${data.kind}`); // a line of the daemon's log
  } else {
    throw new TypeError(`cannot eat ${JSON.stringify(data)}`);
  }
}

async function outcome(job, signal) {
  try {
    await run(job, signal);
    return { outcome: 'done' };
  } catch (error) {
    // No retry would mend a TypeError.
    return { outcome: error instanceof TypeError ? 'fail' : 'retry', error: String(error) };
  }
}

let current = new AbortController();
say({ ready: true, protocol: 1 });
createInterface({ input: process.stdin }).on('line', async (line) => {
  const message = JSON.parse(line);
  if (message.type === 'cancel') current.abort();
  if (message.type !== 'job') return;
  current = new AbortController();
  say({ id: message.id, ...(await outcome(message, current.signal)) });
});

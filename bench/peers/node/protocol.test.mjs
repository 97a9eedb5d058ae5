import assert from "node:assert/strict";
import test from "node:test";
import { Histogram, now } from "./protocol.mjs";

test("a bucket holds its value and is at most 1.6 % wider", () => {
  for (let us = 0.25; us < 4e9; us *= 1.0371) {
    const upper = Histogram.upper(us);
    assert.ok(upper >= us, `got ${upper}, want no less than ${us}`);
    assert.ok(upper <= Math.max(1, Math.ceil(us)) * (1 + 1 / 64), `got ${upper}, want no more than 1/64 above ${us}`);
    assert.equal(Histogram.upper(upper), upper, "the bound of a bucket lies in another bucket");
  }
});

test("buckets are counted and in order", () => {
  const histogram = new Histogram();
  for (const us of [5000, 3, 3, 2.5, -7, 0]) histogram.record(us);
  assert.deepEqual(histogram.buckets(), [[1, 2], [3, 3], [5056, 1]]);
});

test("now is the time of the system's clock", () => {
  const before = Date.now();
  const ms = now() / 1e6;
  const after = Date.now() + 1;
  assert.ok(ms >= before - 5 && ms <= after + 5, `got ${ms}, want between ${before} and ${after}`);
});

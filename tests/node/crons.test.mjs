// Crons: made, fired each second, found, changed, deleted.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, newThread, refused, until } from "./helpers.mjs";

const client = connect();
const NEVER = "0 0 1 1 *";
const EACH_SECOND = "* * * * * *";

test("a cron for a thread", async () => {
  const threadId = await newThread(client);
  const made = await client.crons.createForThread(threadId, "counter", {
    schedule: EACH_SECOND, input: { by: "cron" }, metadata: { team: "x" }, multitaskStrategy: "enqueue",
  });
  assert.equal(made.thread_id, threadId);
  assert.match(made.run_id, /^[0-9a-f-]{36}$/);
  const fired = await until(async () => {
    const runs = await client.runs.list(threadId, { limit: 100, status: "success" });
    const due = runs.map((run) => run.metadata.scheduled_for).filter(Boolean);
    return due.length >= 2 && due;
  });
  assert.equal(new Set(fired).size, fired.length);
  const [found, ...others] = await client.crons.search({ threadId });
  assert.deepEqual(others, []);
  assert.deepEqual([found.cron_id, found.schedule, found.enabled], [made.cron_id, EACH_SECOND, true]);
  assert.ok(new Date(found.next_run_date) > new Date(made.created_at));
  const paused = await client.crons.update(made.cron_id, { enabled: false, schedule: NEVER });
  assert.deepEqual([paused.enabled, paused.schedule], [false, NEVER]);
  await client.crons.delete(made.cron_id);
  assert.deepEqual(await client.crons.search({ threadId }), []);
  await refused(404, client.crons.delete(made.cron_id));
});

test("a cron without a thread", async () => {
  const team = crypto.randomUUID();
  const endTime = new Date(Date.now() + 86_400_000).toISOString();
  const made = await client.crons.create("counter", {
    schedule: EACH_SECOND, input: {}, metadata: { team }, onRunCompleted: "keep", enabled: true,
    timezone: "Europe/Berlin", endTime, streamMode: ["values"], streamResumable: true, durability: "sync",
  });
  const [cron] = await client.crons.search({ metadata: { team } });
  assert.deepEqual([cron.thread_id, cron.timezone, cron.on_run_completed], [null, "Europe/Berlin", "keep"]);
  assert.equal(new Date(cron.end_time).getTime(), new Date(endTime).getTime());
  const threads = await until(async () => {
    const found = await client.threads.search({ metadata: { cron_id: made.cron_id }, status: "idle" });
    return found.length >= 2 && found;
  });
  assert.equal(threads[0].values.count, 2);
  const changed = await client.crons.update(made.cron_id, {
    schedule: NEVER, timezone: "Asia/Tokyo", input: { by: "later" }, metadata: { more: 1 },
  });
  assert.deepEqual([changed.timezone, changed.metadata], ["Asia/Tokyo", { team, more: 1 }]);
  assert.deepEqual(changed.payload.input, { by: "later" });
  await client.crons.delete(made.cron_id);
});

test("what the client does not know goes into the query", async () => {
  const post = (path, json, params) => client.crons.fetch(path, { method: "POST", json, params });
  const body = { assistant_id: "counter", schedule: EACH_SECOND, input: {} };
  const said = { max_runs: 2, jitter_seconds: 60, pause_after_failures: 3, catch_up: "skip", note: "twice" };
  const made = await post("/runs/crons", body, said);
  const read = async () => (await client.crons.fetch(`/runs/crons/${made.cron_id}`)).ledger;
  const { max_runs, jitter_seconds, pause_after_failures, catch_up, note } = await read();
  assert.deepEqual({ max_runs, jitter_seconds, pause_after_failures, catch_up, note }, said);
  const over = await until(async () => (({ state, runs }) => state === "exhausted" && runs)(await read()));
  assert.equal(over, 2);
  const other = await post("/runs/crons", { ...body, schedule: NEVER });
  const path = `/runs/crons/${other.cron_id}`;
  assert.equal((await post(`${path}/pause`, { until: "2030-01-01" }).catch((error) => error.status)), 422);
  const paused = await post(`${path}/pause`, { until: "2030-01-01T00:00:00Z", note: "off" });
  assert.deepEqual([paused.enabled, paused.ledger.paused_until], [false, "2030-01-01T00:00:00+00:00"]);
  assert.equal(paused.next_run_date, "2030-01-01T00:00:00+00:00");
  const span = { start: "2020-01-01T00:00:00Z", end: "2022-01-01T00:00:00Z" };
  const begun = await post(`${path}/backfill`, { ...span, note: "by hand" });
  assert.equal(begun.planned, 2);
  const filled = await until(async () => {
    const found = await client.crons.fetch(`${path}/backfills/${begun.backfill_id}`);
    return found.state === "finished" && found;
  });
  assert.deepEqual([filled.fired, filled.left, filled.note], [2, 0, "by hand"]);
  const resumed = await post(`${path}/resume`, { catch_up: "latest" });
  assert.deepEqual([resumed.enabled, resumed.ledger.state], [true, "active"]);
});

test("a cron whose runs do not run beside each other", async () => {
  // What the library does not know goes into the query, where its hook for requests puts it.
  const saying = connect({ onRequest: (url, init) => (url.searchParams.set("overlap", "skip"), init) });
  const team = crypto.randomUUID();
  const made = await saying.crons.create("counter", {
    schedule: EACH_SECOND, input: { pause_s: 60 }, metadata: { team },
  });
  const cron = await until(async () => {
    const [found] = await client.crons.search({ metadata: { team } });
    return found.ledger.skipped >= 1 && found;
  });
  assert.deepEqual([cron.ledger.overlap, cron.ledger.fired], ["skip", 1]);
  await client.crons.delete(made.cron_id);
  await client.runs.cancel(made.thread_id, made.run_id);
});

test("search and count", async () => {
  const team = crypto.randomUUID();
  const threadId = await newThread(client);
  const [assistant] = await client.assistants.search({ graphId: "counter", limit: 1 });
  const assistantId = assistant.assistant_id;
  const ids = [];
  for (const enabled of [true, false, false]) {
    const made = await client.crons.createForThread(threadId, assistantId, {
      schedule: NEVER, input: {}, enabled, metadata: { team },
    });
    ids.push(made.cron_id);
  }
  const off = await client.crons.search({ threadId, enabled: false, sortBy: "created_at", sortOrder: "asc" });
  assert.deepEqual(off.map((cron) => cron.cron_id), ids.slice(1));
  const [newest] = await client.crons.search({ metadata: { team }, limit: 1, select: ["cron_id"] });
  assert.deepEqual(newest, { cron_id: ids[2] });
  assert.equal(await client.crons.count({ threadId }), 3);
  assert.equal(await client.crons.count({ assistantId, metadata: { team } }), 3);
  assert.equal(await client.crons.count({ metadata: { team: "nobody" } }), 0);
});

test("what is wrong is refused", async () => {
  const threadId = await newThread(client);
  const create = (more) => client.crons.createForThread(threadId, "counter", { schedule: NEVER, input: {}, ...more });
  await refused(422, create({ schedule: "61 * * * *" }));
  await refused(422, create({ timezone: "Mars/Olympus" }));
  await refused(422, create({ endTime: "2001-01-01T00:00:00Z" }));
  await refused(404, client.crons.createForThread(crypto.randomUUID(), "counter", { schedule: NEVER }));
  await refused(404, client.crons.update(crypto.randomUUID(), { enabled: false }));
});

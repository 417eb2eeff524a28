// Threads: made, found, changed, copied; their states read, written and forked.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, newThread, refused, today } from "./helpers.mjs";

const client = connect();

test("create, read, change, delete", today, async () => {
  const threadId = crypto.randomUUID();
  const thread = await client.threads.create({ threadId, metadata: { topic: "a" }, graphId: "counter" });
  assert.deepEqual([thread.thread_id, thread.status, thread.values], [threadId, "idle", null]);
  assert.deepEqual(thread.metadata, { topic: "a", graph_id: "counter" });
  await refused(409, client.threads.create({ threadId }));
  const same = await client.threads.create({ threadId, ifExists: "do_nothing" });
  assert.deepEqual(same.metadata, thread.metadata);
  const changed = await client.threads.update(threadId, { metadata: { mood: "good" } });
  assert.deepEqual(changed.metadata, { topic: "a", graph_id: "counter", mood: "good" });
  const minimal = await client.threads.update(threadId, { metadata: { mood: "bad" }, returnMinimal: true });
  assert.equal(minimal, undefined);
  assert.equal((await client.threads.get(threadId)).metadata.mood, "bad");
  await client.threads.delete(threadId);
  await refused(404, client.threads.get(threadId));
  await refused(422, client.threads.get("not-an-id"));
});

test("search and count", async () => {
  const topic = crypto.randomUUID();
  const ids = [];
  for (const number of [1, 2, 3]) {
    ids.push((await client.threads.create({ metadata: { topic, number } })).thread_id);
  }
  await client.runs.wait(ids[1], "counter", { input: { by: topic } });
  const search = (query) => client.threads.search({ metadata: { topic }, ...query });
  const found = await search({ sortBy: "created_at", sortOrder: "asc" });
  assert.deepEqual(found.map((thread) => thread.thread_id), ids);
  const page = await search({ sortBy: "created_at", sortOrder: "desc", limit: 1, offset: 1 });
  assert.deepEqual(page.map((thread) => thread.thread_id), [ids[1]]);
  assert.equal(page[0].values.count, 2);
  const byValues = await search({ values: { by: topic }, select: ["thread_id", "status"] });
  assert.deepEqual(byValues, [{ thread_id: ids[1], status: "idle" }]);
  assert.deepEqual((await search({ ids: [ids[0]] })).map((thread) => thread.metadata.number), [1]);
  assert.equal(await client.threads.count({ metadata: { topic } }), 3);
  assert.equal(await client.threads.count({ metadata: { topic }, status: "busy" }), 0);
});

test("state and history", async () => {
  const threadId = await newThread(client);
  const empty = await client.threads.getState(threadId);
  assert.deepEqual([empty.values, empty.next, empty.tasks, empty.checkpoint], [{}, [], [], null]);
  await client.runs.wait(threadId, "counter", { input: { by: "me" } });
  const state = await client.threads.getState(threadId);
  assert.deepEqual([state.values.count, state.values.by, state.next], [2, "me", []]);
  assert.equal(state.checkpoint.thread_id, threadId);

  const history = await client.threads.getHistory(threadId);
  assert.deepEqual(history.map((each) => each.next), [[], ["second"], ["first"], ["__start__"]]);
  assert.deepEqual(history.map((each) => each.values.count ?? 0), [2, 1, 0, 0]);
  history.slice(1).forEach((each, i) => {
    assert.equal(history[i].parent_checkpoint.checkpoint_id, each.checkpoint.checkpoint_id);
  });
  const [newest] = await client.threads.getHistory(threadId, { limit: 1 });
  assert.deepEqual(newest, history[0]);
  const before = { configurable: { checkpoint_id: history[1].checkpoint.checkpoint_id } };
  assert.deepEqual(await client.threads.getHistory(threadId, { before }), history.slice(2));

  const middle = history[1].checkpoint;
  assert.deepEqual((await client.threads.getState(threadId, middle)).values.count, 1);
  assert.deepEqual((await client.threads.getState(threadId, middle.checkpoint_id)).values.count, 1);
});

test("states of a graph inside", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "nested", { input: {}, interruptBefore: ["inside"] });
  const outside = await client.threads.getState(threadId, undefined, { subgraphs: true });
  assert.deepEqual(outside.next, ["inside"]);
  const done = await client.runs.wait(threadId, "nested", { input: null });
  assert.equal(done.count, 4);
});

test("write and fork", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "counter", { input: {} });
  const [, middle] = await client.threads.getHistory(threadId);
  const written = await client.threads.updateState(threadId, { values: { count: 40 }, asNode: "second" });
  assert.equal(written.checkpoint.thread_id, threadId);
  assert.equal((await client.threads.getState(threadId)).values.count, 42);
  await client.threads.updateState(threadId, {
    values: { by: "fork" }, asNode: "first", checkpoint: middle.checkpoint,
  });
  const forked = await client.threads.getState(threadId);
  assert.deepEqual([forked.values.count, forked.values.by, forked.next], [1, "fork", ["second"]]);
  assert.equal((await client.runs.wait(threadId, "counter", { input: null })).count, 2);
});

test("copy", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "counter", { input: {} });
  const copied = await client.threads.copy(threadId);
  assert.notEqual(copied.thread_id, threadId);
  await client.runs.wait(copied.thread_id, "counter", { input: {} });
  assert.equal((await client.threads.getState(copied.thread_id)).values.count, 4);
  assert.equal((await client.threads.getState(threadId)).values.count, 2);
  await refused(404, client.threads.copy(crypto.randomUUID()));
});

test("supersteps", async () => {
  const thread = await client.threads.create({
    graphId: "counter",
    supersteps: [
      { updates: [{ values: {}, asNode: "__input__" }] },
      { updates: [{ values: { count: 1, by: "history" }, asNode: "first" }] },
    ],
  });
  const state = await client.threads.getState(thread.thread_id);
  assert.deepEqual([state.values, state.next], [{ count: 1, by: "history" }, ["second"]]);
});

test("a busy thread is not written to", async () => {
  const threadId = await newThread(client);
  const run = await client.runs.create(threadId, "counter", { input: { pause_s: 60 } });
  assert.equal((await client.threads.get(threadId)).status, "busy");
  await refused(409, client.threads.updateState(threadId, { values: { count: 1 } }));
  await client.runs.cancel(threadId, run.run_id, true);
});

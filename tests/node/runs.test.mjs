// Runs: waited for, joined, cancelled, paused and resumed, meeting one another, without a thread.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, connect, dataOf, newThread, refused, today, until } from "./helpers.mjs";

const client = connect();
const LONG = { pause_s: 60 };

async function running(threadId, payload = {}) {
  const run = await client.runs.create(threadId, "counter", { input: LONG, ...payload });
  await until(async () => (await client.runs.get(threadId, run.run_id)).status === "running");
  return run;
}

test("wait", async () => {
  const threadId = await newThread(client);
  let created;
  const values = await client.runs.wait(threadId, "counter", {
    input: { by: "wait" }, metadata: { why: "test" }, onRunCreated: (run) => (created = run),
  });
  assert.deepEqual([values.count, values.by], [2, "wait"]);
  assert.equal(created.thread_id, threadId);
  const run = await client.runs.get(threadId, created.run_id);
  assert.deepEqual([run.status, run.metadata.why], ["success", "test"]);
});

test("wait tells of errors", async () => {
  const threadId = await newThread(client);
  await assert.rejects(client.runs.wait(threadId, "failing", { input: {} }), { message: "ValueError: boom" });
  const values = await client.runs.wait(threadId, "failing", { input: {}, raiseError: false });
  assert.deepEqual(values.__error__, { error: "ValueError", message: "boom" });
});

test("create and join", today, async () => {
  const threadId = await newThread(client);
  let created;
  const run = await client.runs.create(threadId, "counter", {
    input: { pause_s: 0.1 }, onRunCreated: (metadata) => (created = metadata),
  });
  assert.ok(["pending", "running"].includes(run.status)); // a worker may have been as quick as the answer
  assert.deepEqual({ ...created }, { run_id: run.run_id, thread_id: threadId });
  assert.equal((await client.runs.join(threadId, run.run_id)).count, 2);
  assert.deepEqual((await client.runs.list(threadId)).map((each) => each.run_id), [run.run_id]);
  assert.deepEqual(await client.runs.list(threadId, { status: "error" }), []);
  const [chosen] = await client.runs.list(threadId, { select: ["run_id", "status"] });
  assert.deepEqual(chosen, { run_id: run.run_id, status: "success" });
  await client.runs.delete(threadId, run.run_id);
  await refused(404, client.runs.get(threadId, run.run_id));
});

test("a thread is made on demand", async () => {
  const threadId = crypto.randomUUID();
  await refused(404, client.runs.wait(threadId, "counter", { input: {} }));
  const values = await client.runs.wait(threadId, "counter", { input: {}, ifNotExists: "create" });
  assert.equal(values.count, 2);
  assert.equal((await client.threads.get(threadId)).status, "idle");
});

test("what is unknown or wrong is refused", async () => {
  const threadId = await newThread(client);
  await refused(422, client.runs.create(threadId, "no_such_graph", { input: {} }));
  await refused(404, client.runs.create(threadId, crypto.randomUUID(), { input: {} }));
  await refused(422, client.runs.create(threadId, "counter", { streamMode: "no_such_mode" }));
  await refused(404, client.runs.join(threadId, crypto.randomUUID()));
  await refused(404, collect(client.runs.joinStream(threadId, crypto.randomUUID())));
});

test("cancel", async () => {
  const threadId = await newThread(client);
  const run = await running(threadId);
  const stream = collect(client.runs.joinStream(threadId, run.run_id));
  await client.runs.cancel(threadId, run.run_id, true);
  assert.equal((await client.runs.get(threadId, run.run_id)).status, "interrupted");
  assert.deepEqual((await stream).at(-1).data, { status: "interrupted" });
  await refused(404, client.runs.cancel(threadId, run.run_id));
  const soon = await running(threadId);
  assert.equal((await client.runs.cancel(threadId, soon.run_id)).run_id, soon.run_id);
  await until(async () => (await client.runs.get(threadId, soon.run_id)).status === "interrupted");
});

test("cancel and undo", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "counter", { input: { by: "before" } });
  const run = await running(threadId, { input: { ...LONG, by: "undone" } });
  await client.runs.cancel(threadId, run.run_id, true, "rollback");
  await refused(404, client.runs.get(threadId, run.run_id));
  const state = await client.threads.getState(threadId);
  assert.deepEqual([state.values.by, state.values.count], ["before", 2]);
});

test("cancel several", today, async () => {
  const threadId = await newThread(client);
  const first = await running(threadId);
  const second = await client.runs.create(threadId, "counter", { input: LONG });
  await client.runs.cancelMany({ threadId, runIds: [first.run_id, second.run_id] });
  for (const run of [first, second]) {
    await until(async () => (await client.runs.get(threadId, run.run_id)).status === "interrupted");
  }
});

test("a person answers", async () => {
  const threadId = await newThread(client);
  const parts = await collect(client.runs.stream(threadId, "asking", { input: {} }));
  const [asked] = dataOf(parts, "values").at(-1).__interrupt__;
  assert.deepEqual(asked.value, { question: "may I?" });
  assert.equal(typeof asked.id, "string");
  assert.deepEqual(parts.at(-1).data, { status: "success" });
  const thread = await client.threads.get(threadId);
  assert.equal(thread.status, "interrupted");
  assert.deepEqual(Object.values(thread.interrupts).flat().map((each) => each.id), [asked.id]);
  const state = await client.threads.getState(threadId);
  assert.deepEqual([state.next, state.tasks[0].interrupts[0].value], [["ask"], { question: "may I?" }]);
  const found = await client.threads.search({ status: "interrupted", limit: 100 });
  assert.ok(found.some((each) => each.thread_id === threadId));

  const resumed = await collect(
    client.runs.stream(threadId, "asking", { command: { resume: "yes" }, streamMode: "updates" }),
  );
  assert.deepEqual(dataOf(resumed, "updates"), [{ ask: { answer: "yes" } }, { after: { count: 1 } }]);
  assert.equal((await client.threads.get(threadId)).status, "idle");
});

test("a person answers by the interrupt's id, and wait shows the question", async () => {
  const threadId = await newThread(client);
  const paused = await client.runs.wait(threadId, "asking", { input: {} });
  const [asked] = paused.__interrupt__;
  const command = { resume: { [asked.id]: { granted: true } } };
  const values = await client.runs.wait(threadId, "asking", { command });
  assert.deepEqual(values.answer, { granted: true });
});

test("interrupts reach whoever streams updates", async () => {
  const threadId = await newThread(client);
  const parts = await collect(client.runs.stream(threadId, "asking", { input: {}, streamMode: "updates" }));
  assert.deepEqual(dataOf(parts, "updates").at(-1).__interrupt__[0].value, { question: "may I?" });
});

test("a breakpoint, and on from there", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "counter", { input: {}, interruptBefore: ["second"] });
  assert.deepEqual((await client.threads.getState(threadId)).next, ["second"]);
  const values = await client.runs.wait(threadId, "counter", { input: null });
  assert.equal(values.count, 2);
});

test("from an earlier checkpoint", async () => {
  const threadId = await newThread(client);
  await client.runs.wait(threadId, "counter", { input: { by: "a" } });
  const [, middle] = await client.threads.getHistory(threadId);
  assert.deepEqual(middle.next, ["second"]);
  const { thread_id: _, ...checkpoint } = middle.checkpoint;
  const values = await client.runs.wait(threadId, "counter", { checkpoint });
  assert.equal(values.count, 2);
  const byId = await client.runs.wait(threadId, "counter", { checkpointId: middle.checkpoint.checkpoint_id });
  assert.equal(byId.count, 2);
});

test("reject", async () => {
  const threadId = await newThread(client);
  const first = await running(threadId);
  const second = client.runs.create(threadId, "counter", { input: {}, multitaskStrategy: "reject" });
  await refused(409, second);
  await client.runs.cancel(threadId, first.run_id, true);
  assert.equal((await client.runs.list(threadId)).length, 1);
});

test("enqueue", async () => {
  const threadId = await newThread(client);
  await client.runs.create(threadId, "counter", { input: { pause_s: 0.3, by: "first" } });
  const values = await client.runs.wait(threadId, "counter", {
    input: { pause_s: 0, by: "second" }, multitaskStrategy: "enqueue",
  });
  assert.deepEqual([values.count, values.by], [4, "second"]);
});

test("interrupt", async () => {
  const threadId = await newThread(client);
  const first = await running(threadId);
  const values = await client.runs.wait(threadId, "counter", {
    input: { pause_s: 0, by: "second" }, multitaskStrategy: "interrupt",
  });
  assert.deepEqual([values.count, values.by], [2, "second"]);
  assert.equal((await client.runs.get(threadId, first.run_id)).status, "interrupted");
});

test("rollback", async () => {
  const threadId = await newThread(client);
  const first = await running(threadId, { input: { ...LONG, by: "first" } });
  const values = await client.runs.wait(threadId, "counter", {
    input: { pause_s: 0 }, multitaskStrategy: "rollback",
  });
  assert.deepEqual([values.count, values.by], [2, undefined]);
  await refused(404, client.runs.get(threadId, first.run_id));
});

// --- without a thread ---------------------------------------------------------------------------------

test("wait without a thread", async () => {
  let created;
  const payload = { input: {}, onRunCreated: (run) => (created = run) };
  assert.equal((await client.runs.wait(null, "counter", payload)).count, 2);
  assert.match(created.run_id, /^[0-9a-f-]{36}$/);
  assert.match(created.thread_id, /^[0-9a-f-]{36}$/);
  await until(() => client.threads.get(created.thread_id).then(() => false, (error) => error.status === 404));
  await assert.rejects(client.runs.wait(null, "failing", { input: {} }), { message: "ValueError: boom" });
  await refused(400, client.runs.wait(null, "asking", { command: { resume: "yes" } }));
});

test("stream without a thread", async () => {
  const parts = await collect(client.runs.stream(null, "counter", { input: {}, streamMode: "updates" }));
  assert.deepEqual(dataOf(parts, "updates"), [{ first: { count: 1 } }, { second: { count: 1 } }]);
  assert.deepEqual(parts.at(-1).data, { status: "success" });
});

test("a thread that is kept", async () => {
  let created;
  await client.runs.wait(null, "counter", {
    input: {}, onCompletion: "keep", onRunCreated: (run) => (created = run),
  });
  assert.equal((await client.threads.getState(created.thread_id)).values.count, 2);
});

test("create without a thread", async () => {
  const run = await client.runs.create(null, "counter", { input: {}, onCompletion: "keep" });
  assert.equal((await client.runs.join(run.thread_id, run.run_id)).count, 2);
});

test("a batch", async () => {
  const payloads = ["a", "b", "c"].map((by) => ({
    assistantId: "counter", input: { by }, metadata: { by },
  }));
  const runs = await client.runs.createBatch(payloads);
  assert.deepEqual(runs.map((run) => run.metadata.by), ["a", "b", "c"]);
  assert.equal(new Set(runs.map((run) => run.run_id)).size, 3);
  await refused(404, client.runs.createBatch([...payloads, { assistantId: crypto.randomUUID(), input: {} }]));
});

// What is streamed: every mode, graphs inside, and streams that are left and taken up again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, connect, dataOf, newThread, today, watched } from "./helpers.mjs";

const SENTENCE = "one word after the other";
const QUESTION = { messages: [{ role: "user", content: "say something" }] };
const client = connect();

/** The parts of one run between `metadata` and `end`, which each stream must have. */
async function streamed(graph, payload) {
  const parts = await collect(client.runs.stream(await newThread(client), graph, payload));
  const [first, last] = [parts.at(0), parts.at(-1)];
  assert.equal(first.event, "metadata");
  assert.match(first.data.run_id, /^[0-9a-f-]{36}$/);
  assert.deepEqual([last.event, last.data], ["end", { status: "success" }]);
  return parts.slice(1, -1);
}

const names = (parts) => [...new Set(parts.map((part) => part.event))].sort();

test("values", async () => {
  const parts = await streamed("chatting", { input: QUESTION, streamMode: "values" });
  assert.deepEqual(names(parts), ["values"]);
  assert.equal(parts[0].data.messages.length, 1);
  assert.equal(parts.at(-1).data.messages[1].content, SENTENCE);
  assert.equal(parts.at(-1).data.messages[1].type, "ai");
});

test("values are the default", async () => {
  const parts = await streamed("counter", { input: {} });
  assert.deepEqual(names(parts), ["values"]);
  assert.equal(parts.at(-1).data.count, 2);
});

test("updates", async () => {
  const parts = await streamed("counter", { input: {}, streamMode: "updates" });
  assert.deepEqual(parts.map((part) => part.event), ["updates", "updates"]);
  assert.deepEqual(parts.map((part) => part.data), [{ first: { count: 1 } }, { second: { count: 1 } }]);
});

test("messages", async () => {
  const parts = await streamed("chatting", { input: QUESTION, streamMode: "messages" });
  const partial = dataOf(parts, "messages/partial").map(([message]) => message);
  assert.ok(partial.length > 3);
  partial.slice(1).forEach((later, i) => assert.ok(later.content.startsWith(partial[i].content)));
  assert.equal(partial.at(-1).content, SENTENCE);
  const about = Object.assign({}, ...dataOf(parts, "messages/metadata"));
  assert.equal(about[partial[0].id].metadata.langgraph_node, "speak");
});

test("messages-tuple", async () => {
  const parts = await streamed("chatting", { input: QUESTION, streamMode: "messages-tuple" });
  assert.deepEqual(names(parts), ["messages"]);
  const chunks = parts.map((part) => part.data[0]);
  assert.equal(chunks.map((chunk) => chunk.content).join(""), SENTENCE);
  assert.ok(chunks.length > 3);
  assert.deepEqual([...new Set(chunks.map((chunk) => chunk.type))], ["AIMessageChunk"]);
  assert.equal(parts[0].data[1].langgraph_node, "speak");
});

test("custom", async () => {
  const parts = await streamed("telling", { input: { parts: 3 }, streamMode: "custom" });
  assert.deepEqual(dataOf(parts, "custom"), [{ part: 0 }, { part: 1 }, { part: 2 }]);
  assert.deepEqual(names(parts), ["custom"]);
});

test("tasks", async () => {
  const parts = await streamed("counter", { input: {}, streamMode: "tasks" });
  assert.deepEqual(names(parts), ["tasks"]);
  const data = dataOf(parts, "tasks");
  assert.deepEqual(data.map((task) => task.name), ["first", "first", "second", "second"]);
  assert.deepEqual(data[0].triggers.length, 1);
  assert.deepEqual([data[1].id, data[1].error, data[1].interrupts], [data[0].id, null, []]);
});

test("checkpoints", async () => {
  const parts = await streamed("counter", { input: {}, streamMode: "checkpoints" });
  assert.deepEqual(names(parts), ["checkpoints"]);
  const data = dataOf(parts, "checkpoints");
  assert.deepEqual(data.at(-1).next, []);
  assert.equal(data.at(-1).values.count, 2);
  assert.deepEqual(
    data.at(-1).parent_config.configurable.checkpoint_id,
    data.at(-2).config.configurable.checkpoint_id,
  );
});

test("debug", async () => {
  const parts = await streamed("counter", { input: {}, streamMode: "debug" });
  assert.deepEqual(names(parts), ["debug"]);
  const data = dataOf(parts, "debug");
  assert.deepEqual([...new Set(data.map((each) => each.type))].sort(), ["checkpoint", "task", "task_result"]);
  const last = data.filter((each) => each.type === "checkpoint").at(-1);
  assert.match(last.payload.checkpoint.checkpoint_id, /^[0-9a-f-]{36}$/);
});

test("events", async () => {
  const parts = await streamed("chatting", { input: QUESTION, streamMode: "events" });
  assert.deepEqual(names(parts), ["events"]);
  const tokens = dataOf(parts, "events").filter((each) => each.event === "on_chat_model_stream");
  assert.equal(tokens.map((each) => each.data.chunk.content).join(""), SENTENCE);
});

test("every mode at once", async () => {
  const streamMode = [
    "values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events",
  ];
  const chat = await streamed("chatting", { input: QUESTION, streamMode });
  const spoken = ["checkpoints", "debug", "events", "messages", "tasks", "updates", "values"];
  assert.deepEqual(names(chat), spoken);
  const told = await streamed("telling", { input: {}, streamMode });
  assert.deepEqual(names(told), ["checkpoints", "custom", "debug", "events", "tasks", "updates", "values"]);
});

test("a graph inside", async () => {
  const payload = { input: {}, streamMode: ["updates", "custom", "values"], streamSubgraphs: true };
  const parts = await streamed("nested", payload);
  const inside = parts.filter((part) => part.event.includes("|"));
  assert.deepEqual(
    [...new Set(inside.map((part) => part.event.replace(/[0-9a-f-]{36}/, "ID")))].sort(),
    ["custom|inside:ID", "updates|inside:ID", "values|inside:ID"],
  );
  const steps = inside.filter((part) => part.event.startsWith("updates")).map((part) => Object.keys(part.data)[0]);
  assert.deepEqual(steps, ["first", "second"]);
  assert.equal(dataOf(parts, "values").at(-1).count, 4);
  const without = await streamed("nested", { input: {}, streamMode: "updates" });
  assert.deepEqual(without.map((part) => part.event), ["updates", "updates"]);
});

test("an error ends the stream", async () => {
  const { client: own, requests } = watched();
  const threadId = await newThread(own);
  const parts = await collect(own.runs.stream(threadId, "failing", { input: {}, streamMode: "updates" }));
  assert.deepEqual(dataOf(parts, "error"), [{ error: "ValueError", message: "boom" }]);
  assert.equal(requests.length, 2, `${requests}`);
});

test("headers of a stream", async () => {
  let headers;
  const own = connect({
    fetch: async (url, init) => {
      const answer = await fetch(url, init);
      headers = answer.headers;
      return answer;
    },
  });
  const threadId = await newThread(own);
  const parts = await collect(own.runs.stream(threadId, "counter", { input: {} }));
  const run = `/threads/${threadId}/runs/${parts[0].data.run_id}`;
  assert.equal(headers.get("content-type"), "text/event-stream; charset=utf-8");
  assert.equal(headers.get("content-location"), run);
  assert.equal(headers.get("location"), `${run}/stream`);
  assert.equal(parts[0].id, undefined);
});

test("one request per stream, and the run is known before its first event", async () => {
  const { client: own, requests } = watched();
  const threadId = await newThread(own);
  let created;
  const stream = own.runs.stream(threadId, "counter", { input: {}, onRunCreated: (run) => (created = run) });
  const first = await stream.next();
  assert.deepEqual({ ...created }, { run_id: first.value.data.run_id, thread_id: threadId });
  await collect(stream);
  assert.deepEqual(requests, ["POST /threads", `POST /threads/${threadId}/runs/stream`]);
  assert.equal((await own.runs.get(threadId, created.run_id)).status, "success");
});

// --- left, and taken up again -------------------------------------------------------------------------

const PARTS = 30;
const TOLD = [...Array(PARTS).keys()];
const SLOWLY = { input: { parts: PARTS, pause_s: 0.03 }, streamMode: ["custom", "updates"], streamResumable: true };
const told = (parts) => dataOf(parts, "custom").map((data) => data.part);

function assertIdsRise(parts) {
  // `end` has none: the client shows the last one that it saw.
  const ids = parts.filter((part) => part.event !== "end").map((part) => part.id);
  assert.ok(ids.every((id) => /^\d+-\d+$/.test(id)), `${ids}`);
  const keys = ids.map((id) => id.split("-").map(Number));
  keys.slice(1).forEach(([ms, n], i) => {
    const [beforeMs, beforeN] = keys[i];
    assert.ok(ms > beforeMs || (ms === beforeMs && n > beforeN), `${ids[i]} before ${ids[i + 1]}`);
  });
  assert.ok(ids.length > 0);
}

/** The parts until the client went away, and the run. */
async function leave(threadId, after, payload = SLOWLY) {
  const parts = [];
  const leaving = new AbortController();
  let run;
  const stream = client.runs.stream(threadId, "telling", {
    ...payload, signal: leaving.signal, onRunCreated: (created) => (run = created),
  });
  await assert.rejects(async () => {
    for await (const part of stream) {
      parts.push(part);
      if (told(parts).length === after) {
        leaving.abort();
        throw leaving.signal.reason;
      }
    }
  }, { name: "AbortError" });
  return { parts, runId: run.run_id };
}

test("a stream that was left goes on where it was", async () => {
  const threadId = await newThread(client);
  const { parts, runId } = await leave(threadId, 5);
  const lastEventId = parts.at(-1).id;
  const rest = await collect(client.runs.joinStream(threadId, runId, { lastEventId }));
  assert.deepEqual(told([...parts, ...rest]), TOLD);
  assertIdsRise([...parts, ...rest]);
  assert.deepEqual(dataOf(rest, "updates"), [{ tell: { count: 1 } }]);
  assert.deepEqual(rest.at(-1).data, { status: "success" });
});

test("a stream can be left and taken up many times", async () => {
  const threadId = await newThread(client);
  const { parts, runId } = await leave(threadId, 3);
  while (parts.at(-1).event !== "end") {
    const leaving = new AbortController();
    const options = { lastEventId: parts.at(-1).id, signal: leaving.signal };
    let taken = 0;
    try {
      for await (const part of client.runs.joinStream(threadId, runId, options)) {
        parts.push(part);
        taken += 1;
        if (taken === 7 && part.event !== "end") leaving.abort();
      }
    } catch (error) {
      assert.equal(error.name, "AbortError");
    }
    assert.ok(taken > 0);
  }
  assert.deepEqual(told(parts), TOLD);
});

test("a run that has ended is replayed", async () => {
  const threadId = await newThread(client);
  const payload = { input: { parts: 5 }, streamMode: ["custom", "values"], streamResumable: true };
  const parts = await collect(client.runs.stream(threadId, "telling", payload));
  const runId = parts[0].data.run_id;
  const again = await collect(client.runs.joinStream(threadId, runId, { lastEventId: "-1" }));
  assert.deepEqual(again.map(({ event, data }) => [event, data]), parts.map(({ event, data }) => [event, data]));
  const fewer = { lastEventId: "-1", streamMode: ["custom"] };
  const custom = await collect(client.runs.joinStream(threadId, runId, fewer));
  assert.deepEqual(names(custom), ["custom", "end", "metadata"]);
  assert.deepEqual(told(custom), [0, 1, 2, 3, 4]);
  const both = { lastEventId: "-1", streamMode: ["custom", "values"] };
  assert.deepEqual(told(await collect(client.runs.joinStream(threadId, runId, both))), [0, 1, 2, 3, 4]);
  const late = await collect(client.runs.joinStream(threadId, runId));
  assert.deepEqual(late.map((part) => part.event), ["end"]);
  const nowhere = await collect(client.runs.joinStream(null, runId, { lastEventId: "-1" }));
  assert.deepEqual(told(nowhere), [0, 1, 2, 3, 4]);
});

test("a background run is joined live", async () => {
  const threadId = await newThread(client);
  const run = await client.runs.create(threadId, "telling", SLOWLY);
  const parts = await collect(client.runs.joinStream(threadId, run.run_id, { lastEventId: "-1" }));
  assert.deepEqual(told(parts), TOLD);
  assert.equal(parts.at(-1).event, "end");
});

/** A fetch whose first stream breaks after some chunks, by an error or by a mere end. */
function breaking(after, how) {
  let intact = true;
  return async (url, init) => {
    const answer = await fetch(url, init);
    if (!intact || !answer.headers.get("content-type")?.startsWith("text/event-stream")) return answer;
    intact = false;
    let chunks = 0;
    const cut = new TransformStream({
      transform(chunk, controller) {
        controller.enqueue(chunk);
        chunks += 1;
        if (chunks < after) return;
        if (how === "error") controller.error(new TypeError("terminated"));
        else controller.terminate();
      },
    });
    return new Response(answer.body.pipeThrough(cut), { status: answer.status, headers: answer.headers });
  };
}

for (const how of ["error", "end"]) {
  test(`the client mends a connection that broke by an ${how}`, how === "end" ? today : {}, async () => {
    const { client: own, requests } = watched({ fetch: breaking(8, how) });
    const threadId = await newThread(own);
    const slowly = { ...SLOWLY, input: { parts: PARTS, pause_s: 0.1 } };
    const parts = await collect(own.runs.stream(threadId, "telling", slowly));
    assert.deepEqual(told(parts), TOLD);
    assertIdsRise(parts);
    const runId = parts[0].data.run_id;
    assert.ok(requests.includes(`GET /threads/${threadId}/runs/${runId}/stream`), `${requests}`);
  });
}

test("a run goes on without its listener, unless it was told otherwise", async () => {
  const payload = { ...SLOWLY, input: { parts: 20, pause_s: 0.05 } };
  const staying = await newThread(client);
  const left = await leave(staying, 2, payload);
  await client.runs.join(staying, left.runId);
  assert.equal((await client.runs.get(staying, left.runId)).status, "success");
  const going = await newThread(client);
  const ended = await leave(going, 2, { ...payload, input: { parts: 1000, pause_s: 0.05 }, onDisconnect: "cancel" });
  await client.runs.join(going, ended.runId);
  assert.equal((await client.runs.get(going, ended.runId)).status, "interrupted");
});

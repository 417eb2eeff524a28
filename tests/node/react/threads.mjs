// threads.stream of the SDK, by both of its transports, and threads.joinStream.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Client } from "@langchain/langgraph-sdk";
import { StreamController } from "@langchain/langgraph-sdk/stream";
import { textOf, typeOf, until, WebSocketOfDom } from "./harness.mjs";

const HELLO = { messages: [{ type: "human", content: "hello", id: "h-1" }] };
const CHANNELS = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"];
const apiUrl = `http://127.0.0.1:${readFileSync(process.env.TARGET, "utf8")}`;
const client = new Client({ apiUrl, apiKey: null });
const byWebSocket = new Client({ apiUrl, apiKey: null, streamProtocol: "v2-websocket" });
const webSocketFactory = (url) => new WebSocketOfDom(url);

async function collect(stream) {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
}

/** Runs it on a thread of its own, with all events that came of it: up to its end, as often as one is awaited. */
async function opened(options, work) {
  const own = options.transport === "websocket" ? byWebSocket : client;
  const { transport, ...more } = options;
  const thread = own.threads.stream(crypto.randomUUID(), { webSocketFactory, ...more });
  try {
    return await work(thread);
  } finally {
    await thread.close();
  }
}

const kept = async (thread) => (await client.threads.getState(thread.threadId)).values;
const said = (values) => values.messages.map((message) => [typeOf(message), textOf(message)]);
const isEnd = ({ method, params }) =>
  method === "lifecycle" && params.namespace.length === 0 && params.data.event !== "running";

/** The next events of a subscription, up to the end of a run. */
async function upToEnd(subscription) {
  const found = [];
  const events = subscription[Symbol.asyncIterator]();
  for (;;) {
    const { value, done } = await events.next();
    assert.ok(!done, "the subscription has ended");
    found.push(value);
    if (isEnd(value)) return found;
  }
}

for (const transport of ["sse", "websocket"]) {
  test(`${transport}: messages word by word, values and the output`, async () => {
    await opened({ assistantId: "slow", transport }, async (thread) => {
      const reading = (async () => {
        for await (const message of thread.messages) return collect(message.text);
      })();
      const states = collect(thread.values);
      const { run_id: runId } = await thread.run.start({ input: HELLO });
      const words = await reading;
      assert.ok(words.length > 5, `${words}`);
      const output = await thread.output;
      const values = await kept(thread);
      assert.equal(words.join(""), textOf(values.messages.at(-1)));
      assert.deepEqual(said(output), said(values));
      assert.deepEqual(said((await states).at(-1)), said(values));
      assert.equal((await client.runs.get(thread.threadId, runId)).status, "success");
      assert.equal(thread.interrupted, false);
    });
  });

  test(`${transport}: tools that are called, one of which fails`, async () => {
    await opened({ assistantId: "calling", transport }, async (thread) => {
      const messages = collect(thread.messages);
      const calling = collect(thread.toolCalls);
      await thread.run.start({ input: HELLO });
      // The client hands out each call when it begins and when it ends, and both are the same.
      const calls = new Map((await calling).map((call) => [call.callId, call]));
      const [weather, divide] = [calls.get("call-weather"), calls.get("call-divide")];
      assert.deepEqual([calls.size, weather.name, weather.input], [2, "weather", { city: "Oslo" }]);
      assert.equal(await weather.output, "sunny in Oslo");
      assert.deepEqual([divide.name, divide.input], ["divide", { number: 0 }]);
      await assert.rejects(divide.output);
      const [first, last] = await messages;
      const asked = (await first.toolCalls).map(({ name, args }) => [name, args]);
      assert.deepEqual(asked, [["weather", { city: "Oslo" }], ["divide", { number: 0 }]]);
      assert.equal(await last.text, "that is all");
    });
  });

  test(`${transport}: all events once, in order, and the same again`, async () => {
    await opened({ assistantId: "deep", transport }, async (thread) => {
      const events = [];
      const { run_id: runId } = await (async () => {
        const started = thread.run.start({ input: HELLO });
        events.push(...await upToEnd(await thread.subscribe(CHANNELS)));
        return started;
      })();
      const seqs = events.map((event) => event.seq);
      assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b));
      assert.equal(new Set(events.map((event) => event.event_id)).size, events.length);
      assert.equal(events[0].event_id, `synth:${runId}:lc||running`);
      const custom = events.filter((event) => event.method === "custom");
      assert.deepEqual(custom.map((event) => event.params.data.payload), [{ part: 0 }, { part: 1 }, { part: 2 }]);
      const nodes = custom[0].params.namespace.map((segment) => segment.split(":")[0]);
      assert.deepEqual(nodes, ["outer", "inner"]);
      const again = client.threads.stream(thread.threadId, { assistantId: "deep" });
      const second = await upToEnd(await again.subscribe(CHANNELS));
      await again.close();
      const shown = (told) => told.map(({ event_id, seq, method, params }) => [event_id, seq, method, params.namespace]);
      assert.deepEqual(shown(second), shown(events));
    });
  });

  test(`${transport}: graphs inside, and what is said there`, async () => {
    await opened({ assistantId: "deep", transport }, async (thread) => {
      const started = thread.run.start({ input: HELLO });
      const path = [];
      for await (const outer of thread.subgraphs) {
        path.push(outer.name);
        for await (const inner of outer.subgraphs) {
          path.push(inner.name);
          const [message] = await collect(inner.messages);
          path.push(await message.text);
        }
      }
      await started;
      const values = await kept(thread);
      assert.deepEqual(path, ["outer", "inner", textOf(values.messages[1])]);
    });
  });

  test(`${transport}: two questions at once, in a graph inside`, async () => {
    await opened({ assistantId: "pair", transport }, async (thread) => {
      const started = thread.run.start({ input: HELLO });
      const subscription = await thread.subscribe(["lifecycle", "input"]);
      const asking = await upToEnd(subscription);
      await started;
      assert.equal(asking.at(-1).params.data.event, "interrupted");
      assert.equal(thread.interrupted, true);
      const asked = thread.interrupts;
      assert.deepEqual(asked.map((one) => one.payload).sort(), ["and then?", "may I?"]);
      assert.ok(asked.every(({ namespace }) => namespace.length === 1 && namespace[0].startsWith("outer:")));
      const answers = { "may I?": "yes", "and then?": "no" };
      await thread.input.respond({
        responses: asked.map((one) =>
          ({ interrupt_id: one.interruptId, response: answers[one.payload], namespace: one.namespace })),
      });
      const after = await upToEnd(subscription);
      assert.equal(after.at(-1).params.data.event, "completed");
      const texts = said(await kept(thread)).map(([, text]) => text);
      assert.deepEqual(texts.slice(1).sort(), ["and no", "thank you", "you said yes"]);
      const [first] = asking.filter((event) => event.method === "input.requested");
      await assert.rejects(
        thread.input.respond({ interrupt_id: first.params.data.interrupt_id, namespace: [], response: "again" }),
        /no_such_interrupt|answered/,
      );
    });
  });

  test(`${transport}: an error two graphs deep`, async () => {
    await opened({ assistantId: "failing_inside", transport }, async (thread) => {
      const started = thread.run.start({ input: HELLO });
      const events = await upToEnd(await thread.subscribe(["lifecycle"]));
      await started;
      const told = events.map(({ params }) => [params.namespace.length, params.data.event]);
      assert.deepEqual(told, [[0, "running"], [1, "started"], [2, "started"], [2, "failed"], [1, "failed"], [0, "failed"]]);
      assert.match(events.at(-1).params.data.error, /it is broken/);
    });
  });

  test(`${transport}: a stop closes the graphs inside, the deepest first`, async () => {
    await opened({ assistantId: "deep", transport }, async (thread) => {
      const started = thread.run.start({ input: HELLO });
      const subscription = await thread.subscribe(["lifecycle", "messages"]);
      const { run_id: runId } = await started;
      let stopping;
      const events = [];
      for await (const event of subscription) {
        events.push(event);
        if (event.method === "messages" && event.params.data.event === "content-block-delta") {
          stopping ??= client.runs.cancel(thread.threadId, runId);
        }
        if (isEnd(event)) break;
      }
      await stopping;
      const told = events.filter((event) => event.method === "lifecycle");
      assert.deepEqual(
        told.slice(-3).map(({ params }) => [params.namespace.length, params.data.event]),
        [[2, "interrupted"], [1, "interrupted"], [0, "interrupted"]],
      );
    });
  });

  test(`${transport}: what is no command is refused by its code`, async () => {
    await opened({ assistantId: "nosuch", transport }, async (thread) => {
      await assert.rejects(thread.run.start({ input: HELLO }), (error) => {
        assert.equal(error.code, "invalid_argument");
        return true;
      });
      await assert.rejects(thread.agent.getTree(), (error) => error.code === "no_such_run");
      await assert.rejects(thread.state.get({}), (error) => error.code === "unknown_command");
    });
  });

  test(`${transport}: a run that waits behind another starts when that ends`, async () => {
    await opened({ assistantId: "agent", transport }, async (thread) => {
      const ids = [];
      const heard = new Promise((resolve) => thread.onEvent((event) => {
        if (event.method === "lifecycle") ids.push(event.event_id);
        if (ids.length === 4) resolve();
      }));
      const runs = [];
      for (const id of ["h-1", "h-2"]) {
        const input = { messages: [{ type: "human", content: "hello", id }] };
        runs.push((await thread.run.start({ input, multitaskStrategy: "enqueue" })).run_id);
      }
      await heard;
      const told = runs.flatMap((run) => [`synth:${run}:lc||running`, `synth:${run}:lc||completed`]);
      assert.deepEqual(ids, told);
    });
  });
}

test("an answer ends the question for whoever else looks at the thread", async () => {
  const threadId = crypto.randomUUID();
  const own = [1, 2].map(() => new StreamController({ assistantId: "asking", client, threadId }));
  const [one, other] = own;
  const questions = (controller) => controller.rootStore.getSnapshot().interrupts.length;
  try {
    await one.submit(HELLO);
    await until(() => questions(one) === 1, "a question");
    await other.hydrate(threadId);
    await until(() => questions(other) === 1, "the question elsewhere");
    await one.respond("yes");
    await until(() => questions(one) === 0, "no question any more");
    await until(() => questions(other) === 0, "no question any more elsewhere", 3);
  } finally {
    for (const controller of own) await controller.dispose();
  }
});

test("a thread is joined, and told of each of its runs", async () => {
  const { thread_id: threadId } = await client.threads.create();
  const leaving = new AbortController();
  const frames = [];
  const joined = (async () => {
    for await (const frame of client.threads.joinStream(threadId, { lastEventId: "-", signal: leaving.signal })) {
      frames.push(frame);
      if (frames.filter(({ data }) => data?.status === "run_done").length === 2) return;
    }
  })();
  const runs = [];
  for (const graph of ["agent", "calling"]) {
    const run = await client.runs.create(threadId, graph, { input: HELLO, streamMode: ["values", "custom"] });
    await client.runs.join(threadId, run.run_id);
    runs.push(run.run_id);
  }
  await joined;
  leaving.abort();
  const done = frames.filter(({ data }) => data?.status === "run_done");
  assert.deepEqual(done.map(({ data }) => data.run_id), runs);
  const values = frames.filter(({ event }) => event === "values");
  const { values: last } = await client.threads.getState(threadId);
  assert.equal(values.at(-1).data.messages.length, last.messages.length);
  assert.deepEqual(frames.filter(({ event }) => event === "custom")[0].data, { looking: "Paris" });
});

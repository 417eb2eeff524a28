// Connections that are lost in the middle of runs: in the end all pages and streams have what one has that lost none.
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { Client } from "@langchain/langgraph-sdk";
import { useStream } from "@langchain/react";
import { idle, mount, same, submitted, until, WebSocketOfDom, wire } from "./harness.mjs";

const [target, restart] = [process.env.TARGET, process.env.RESTART];
const HELLO = { messages: [{ type: "human", content: "hello", id: "h-1" }] };
const CHANNELS = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"];
const line = await wire(target);
const client = new Client({ apiUrl: line.url, apiKey: null });
const calm = await wire(target);
const whole = new Client({ apiUrl: calm.url, apiKey: null }); // nobody cuts its connections
after(() => [line, calm].forEach((one) => one.close()));

const byWebSocket = { transport: "websocket", webSocketFactory: (url) => new WebSocketOfDom(url) };
const page = (assistantId, options = {}) => mount(useStream, { assistantId, apiUrl: line.url, client, ...options }, assistantId === "deep");

/** Pages in the middle of words of the graph and of one inside. */
async function pages(options) {
  const all = ["slow", "deep"].map((graph) => page(graph, options));
  await Promise.all(all.map((one) => submitted(one, HELLO)));
  const [slow, deep] = all;
  await until(() => slow.shown()[1]?.[1].length > 5, "words of the graph");
  await until(() => deep.inside()[1]?.[1].length > "hello|".length, "words of the graph inside");
  assert.ok(all.every((one) => one.now().isLoading), "they came at the end");
  return all;
}

/** A stream of all events of the thread, from before its first run. */
function listening(own, threadId, options = {}) {
  const thread = own.threads.stream(threadId, { assistantId: "slow", reconnectDelayMs: () => 50, ...options });
  const events = [];
  thread.onEvent((event) => events.push(event));
  const subscribed = thread.subscribe(CHANNELS);
  return { events, thread, subscribed };
}

const endsOf = (events) => events.filter(({ method, params }) =>
  method === "lifecycle" && !params.namespace.length && params.data.event !== "running");
const shown = (events) => events.map(({ event_id, seq, method }) => [event_id, seq, method]);

async function finished(threadId) {
  await until(async () => {
    const [run] = await client.runs.list(threadId).catch(() => []);
    assert.ok(!["error", "interrupted"].includes(run?.status), run?.status);
    return run?.status === "success";
  }, "the end of the run", 60);
}

for (const [transport, options] of [["sse", {}], ["websocket", byWebSocket]]) {
  test(`${transport}: pages show the same after a dropped connection as those that lost none`, async () => {
    const all = await pages(options);
    const twins = all.map((one) => {
      const { threadId, assistantId } = one.now();
      return mount(useStream, { assistantId, threadId, client: whole }, assistantId === "deep");
    });
    await until(() => twins[0].shown()[1]?.[1].length > 5, "the first words on the other page");
    line.cut();
    await Promise.all(all.map((one) => finished(one.now().threadId)));
    for (const [n, one] of all.entries()) {
      await idle(one);
      await same(one, client);
      assert.deepEqual(one.shown(), twins[n].shown());
      await until(() => isDeepStrictEqual(one.inside(), twins[n].inside()), "the same in graphs inside", 10);
      one.leave();
      twins[n].leave();
    }
  });

  test(`${transport}: all events once, and the same ones, after many dropped connections`, async () => {
    const threadId = crypto.randomUUID();
    const own = [listening(client, threadId, options), listening(whole, threadId)];
    await Promise.all(own.map(({ subscribed }) => subscribed));
    await own[1].thread.run.start({ input: HELLO });
    for (let cuts = 0; cuts < 6; cuts += 1) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      line.cut();
    }
    for (const { events } of own) await until(() => endsOf(events).length === 1, "the end");
    const all = shown(own[1].events);
    assert.ok(all.length > 30, `${all.length}`);
    const told = shown(own[0].events);
    assert.deepEqual(told.sort(([, a], [, b]) => a - b), all);
    for (const { thread } of own) await thread.close();
  });

  test(`${transport}: a question is there once after a dropped connection, and is answered`, async () => {
    const one = page("nested", options);
    await submitted(one, HELLO);
    await idle(one);
    await until(() => one.now().getThread().interrupts.length, "a question");
    line.cut();
    await until(() => client.runs.list(one.now().threadId).catch(() => null), "a connection");
    await until(() => one.now().respond("yes").then(() => true, () => false), "a connection for the answer");
    await until(() => one.shown().length === 4, "the answer");
    await idle(one);
    await same(one, client);
    const runs = await client.runs.list(one.now().threadId);
    assert.deepEqual(runs.map((run) => run.status), ["success", "success"]);
    one.leave();
  });
}

test("pages show the same after a restart of the server", async () => {
  const all = (await Promise.all([pages({}), pages(byWebSocket)])).flat();
  writeFileSync(restart, "now");
  await until(() => !existsSync(restart), "the restart", 60);
  await Promise.all(all.map((one) => finished(one.now().threadId)));
  for (const one of all) {
    await idle(one);
    const kept = await same(one, client);
    const { threadId, assistantId } = one.now();
    const fresh = page(assistantId, { threadId });
    await until(() => fresh.shown().length === kept.length, "a page that was never there");
    assert.deepEqual(fresh.shown(), kept);
    one.leave();
    fresh.leave();
  }
});

// useStream of @langchain/react, and the hook of @langchain/langgraph-sdk, against a real server.
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { Client } from "@langchain/langgraph-sdk";
import { useStream as useLegacyStream } from "@langchain/langgraph-sdk/react";
import { useStream } from "@langchain/react";
import { mount, textOf, typeOf, WebSocketOfDom, wire } from "./harness.mjs";

const [target, restart] = [process.env.TARGET, process.env.RESTART];
const line = await wire(target);
const client = new Client({ apiUrl: line.url, apiKey: null });
const hello = { messages: [{ type: "human", content: "hello", id: "h-1" }] };
const SENTENCE = "one word after the other, so that there is time for something to happen";
after(() => line.close());

async function until(ask, what, seconds = 30) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const answer = await ask();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`not within ${seconds} s: ${what}`);
}

function chat(assistantId, options = {}) {
  return mount(useStream, { assistantId, apiUrl: line.url, client, ...options });
}

async function submitted(page, input, options) {
  await until(() => page.now(), "the first render");
  page.now().submit(input, options);
  await until(() => page.now().isLoading, "a run");
}

const idle = (page) => until(() => !page.now().isLoading, "the end of the run");

/** What the thread has in the end: the same as the page shows, nothing doubled. */
async function agreed(page) {
  const { values } = await client.threads.getState(page.now().threadId);
  const kept = values.messages.map((message) => [message.type, textOf(message)]);
  await until(() => page.shown().length === kept.length, `${JSON.stringify(page.shown())} is ${JSON.stringify(kept)}`, 10);
  assert.deepEqual(page.shown(), kept);
  const ids = page.now().messages.map((message) => message.id);
  assert.equal(new Set(ids).size, ids.length);
  return kept;
}

for (const transport of ["sse", "websocket"]) {
  const options = transport === "sse" ? {} : { transport, webSocketFactory: (url) => new WebSocketOfDom(url) };

  test(`${transport}: a chat with a tool`, async () => {
    const page = chat("agent", options);
    await submitted(page, hello);
    await idle(page);
    const kept = await agreed(page);
    assert.deepEqual(kept.map(([type]) => type), ["human", "ai", "tool", "ai"]);
    assert.deepEqual(kept.at(-1), ["ai", "it is sunny"]);
    const [call] = page.now().toolCalls;
    assert.deepEqual([call.name, call.input ?? call.args], ["weather", { city: "Paris" }]);
    page.leave();
  });

  test(`${transport}: word by word`, async () => {
    const page = chat("slow", options);
    await submitted(page, hello);
    await idle(page);
    assert.deepEqual((await agreed(page)).at(-1), ["ai", SENTENCE]);
    assert.ok(page.texts().length > 5, page.texts());
    page.leave();
  });

  test(`${transport}: a question two graphs deep, and its answer`, async () => {
    const page = chat("nested", options);
    await submitted(page, hello);
    await idle(page);
    const asked = await until(() => page.now().getThread().interrupts.at(0), "an interrupt");
    assert.equal(asked.payload ?? asked.value, "may I?");
    await page.now().respond("yes");
    await until(() => page.shown().length === 4, "the answer");
    await idle(page);
    const texts = (await agreed(page)).map(([, text]) => text);
    assert.deepEqual(texts, ["hello", "you said yes", "thank you", "thank you"]);
    assert.equal(page.now().interrupts.length, 0);
    page.leave();
  });
}

test("a question of the graph itself", async () => {
  const page = chat("asking");
  await submitted(page, hello);
  await idle(page);
  assert.equal(page.now().interrupt.value, "may I?");
  await page.now().respond("no");
  await until(() => page.shown().length === 3, "the answer");
  await idle(page);
  assert.deepEqual((await agreed(page)).at(1), ["ai", "you said no"]);
  page.leave();
});

test("graphs inside are discovered", async () => {
  const page = chat("nested");
  await submitted(page, hello);
  await idle(page);
  assert.deepEqual([...page.now().subgraphsByNode.keys()], ["outer"]);
  page.leave();
});

test("an error", async () => {
  const page = chat("failing");
  await submitted(page, hello);
  await until(() => page.now().error, "an error");
  assert.match(String(page.now().error), /it is broken/);
  assert.equal(page.now().isLoading, false);
  page.leave();
});

test("a stop", async () => {
  const page = chat("endless");
  await submitted(page, hello);
  const { threadId } = page.now();
  await until(async () => (await client.runs.list(threadId)).at(0)?.status === "running", "a running run");
  await page.now().stop();
  await until(async () => (await client.runs.list(threadId))[0].status === "interrupted", "the stop");
  assert.equal(page.now().isLoading, false);
  page.leave();
});

test("somebody else's stop ends it here too", async () => {
  const page = chat("endless");
  await submitted(page, hello);
  const { threadId } = page.now();
  const [run] = await until(async () => {
    const runs = await client.runs.list(threadId);
    return runs.length && runs;
  }, "a run");
  await client.runs.cancel(threadId, run.run_id);
  await idle(page);
  page.leave();
});

for (const [name, harm] of [
  ["a dropped connection", async () => line.cut()],
  ["a restart of the server", async () => {
    writeFileSync(restart, "now");
    await until(() => !existsSync(restart), "the restart", 60);
  }],
]) {
  test(`the same messages after ${name}`, async () => {
    const page = chat("slow");
    await submitted(page, hello);
    await until(() => page.shown().length === 2 && page.shown()[1][1].length > 5, "the first words");
    await harm();
    await until(async () => {
      const [run] = await client.runs.list(page.now().threadId).catch(() => []);
      return run?.status === "success";
    }, "the end of the run", 60);
    await idle(page);
    assert.deepEqual(await agreed(page), [["human", "hello"], ["ai", SENTENCE]]);
    page.leave();
  });
}

test("a page that is opened again shows the thread", async () => {
  const first = chat("agent");
  await submitted(first, hello);
  await idle(first);
  const { threadId } = first.now();
  first.leave();
  const again = chat("agent", { threadId });
  await until(() => again.shown().length === 4, "the thread");
  await agreed(again);
  await submitted(again, { messages: [{ type: "human", content: "again", id: "h-2" }] });
  await idle(again);
  assert.equal((await agreed(again)).length, 8);
  again.leave();
});

test("the former hook", async () => {
  const options = { assistantId: "agent", apiUrl: line.url, client, messagesKey: "messages" };
  const page = mount(useLegacyStream, options);
  await until(() => page.now(), "the first render");
  page.now().submit(hello);
  await until(() => page.shown().length === 4, "the answer");
  await idle(page);
  assert.deepEqual(page.shown().map(([type]) => type), ["human", "ai", "tool", "ai"]);
  assert.equal(typeOf(page.now().messages.at(-1)), "ai");
  page.leave();
});

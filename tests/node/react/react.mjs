// useStream of @langchain/react, and the hook of @langchain/langgraph-sdk, against a real server.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Client } from "@langchain/langgraph-sdk";
import { useStream as useLegacyStream } from "@langchain/langgraph-sdk/react";
import { useStream } from "@langchain/react";
import { idle, mount, same, submitted, typeOf, until, WebSocketOfDom, wire } from "./harness.mjs";

const line = await wire(process.env.TARGET);
const client = new Client({ apiUrl: line.url, apiKey: null });
const hello = { messages: [{ type: "human", content: "hello", id: "h-1" }] };
const SENTENCE = "one word after the other, so that there is time for something to happen";
after(() => line.close());

function chat(assistantId, options = {}) {
  return mount(useStream, { assistantId, apiUrl: line.url, client, ...options });
}

/** What the thread has in the end: the same as the page shows. */
const agreed = (page) => same(page, client);

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

/** The runs of a thread; a page loads before there is one. */
const runsOf = (threadId) => client.runs.list(threadId).catch((error) => {
  assert.equal(error.status, 404);
  return [];
});

test("a stop", async () => {
  const page = chat("endless");
  await submitted(page, hello);
  const { threadId } = page.now();
  await until(async () => (await runsOf(threadId)).at(0)?.status === "running", "a running run");
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
    const runs = await runsOf(threadId);
    return runs.length && runs;
  }, "a run");
  await client.runs.cancel(threadId, run.run_id);
  await idle(page);
  page.leave();
});

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

test("the former hook is asked, and answers", async () => {
  const page = mount(useLegacyStream, { assistantId: "asking", apiUrl: line.url, client, messagesKey: "messages" });
  await until(() => page.now(), "the first render");
  page.now().submit(hello);
  const asked = await until(() => page.now().interrupt, "a question");
  assert.equal(asked.value, "may I?");
  await idle(page);
  page.now().submit(null, { command: { resume: "yes" } });
  await until(() => page.shown().length === 3, "the answer");
  await idle(page);
  assert.deepEqual(page.shown().map(([, text]) => text), ["hello", "you said yes", "thank you"]);
  assert.equal(page.now().interrupt, undefined);
  page.leave();
});

test("two questions at once in a graph inside, answered together", async () => {
  const page = chat("pair");
  await submitted(page, hello);
  await idle(page);
  const asked = await until(() => {
    const all = page.now().getThread().interrupts;
    return all.length === 2 && all;
  }, "two questions");
  const answers = { "may I?": "yes", "and then?": "no" };
  await page.now().respondAll(Object.fromEntries(asked.map((one) => [one.interruptId, answers[one.payload]])));
  await until(() => page.shown().length === 4, "the end");
  await idle(page);
  const texts = (await agreed(page)).map(([, text]) => text);
  assert.deepEqual(texts.slice(1).sort(), ["and no", "thank you", "you said yes"]);
  page.leave();
});

test("words that are said in a graph inside, as they come", async () => {
  const page = mount(useStream, { assistantId: "deep", apiUrl: line.url, client }, true);
  await submitted(page, hello);
  const partly = await until(() => page.inside().find(([path, text]) => path === "outer/inner" && text.includes("one")), "words");
  assert.ok(partly[1].length < `hello|${SENTENCE}`.length, partly[1]);
  await idle(page);
  await agreed(page);
  assert.deepEqual(page.inside(), [["outer", `hello|${SENTENCE}`], ["outer/inner", `hello|${SENTENCE}`]]);
  page.leave();
});

test("tools that are called, one of which fails", async () => {
  const page = chat("calling");
  await submitted(page, hello);
  await idle(page);
  await agreed(page);
  const shown = page.now().toolCalls.map((call) => [call.name, call.input ?? call.args]).sort();
  assert.deepEqual(shown, [["divide", { number: 0 }], ["weather", { city: "Oslo" }]]);
  assert.ok(page.now().toolCalls.every((call) => call.status !== "running"));
  page.leave();
});

test("two pages on one thread show the same, whichever of them answers", async () => {
  const one = chat("asking");
  await submitted(one, hello);
  await idle(one);
  const other = chat("asking", { threadId: one.now().threadId });
  await until(() => other.now()?.interrupt, "the question on the other page");
  await one.now().respond("yes");
  for (const page of [one, other]) {
    await until(() => page.shown().length === 3 && !page.now().isLoading, "the answer");
    await agreed(page);
  }
  assert.equal(one.now().interrupts.length, 0);
  for (const page of [one, other]) page.leave();
});

// Webhooks of runs and crons, received by Node.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { connect, newThread, refused, until } from "./helpers.mjs";

const client = connect();

/** A receiver on loopback, and what it has got. */
async function receiver(context) {
  const got = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    got.push({ id: request.headers["webhook-id"], told: JSON.parse(body) });
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => server.close());
  return { got, webhook: `http://127.0.0.1:${server.address().port}/hook` };
}

test("a run's end is told", async (context) => {
  const { got, webhook } = await receiver(context);
  const threadId = await newThread(client);
  const run = await client.runs.create(threadId, "counter", { input: { by: "run" }, webhook });
  const [{ told, id }] = await until(() => got.length && got);
  assert.deepEqual([told.run_id, told.thread_id, told.status], [run.run_id, threadId, "success"]);
  assert.match(id, /^[0-9a-f-]{36}$/);
});

test("the ends of a cron's runs are told", async (context) => {
  const { got, webhook } = await receiver(context);
  const threadId = await newThread(client);
  const made = await client.crons.createForThread(threadId, "counter", {
    schedule: "* * * * * *", input: { by: "cron" }, webhook,
  });
  await until(() => got.length >= 2);
  await client.crons.delete(made.cron_id);
  assert.ok(got.every(({ told }) => told.kwargs.config.configurable.cron_id === told.metadata.cron_id));
  assert.equal(new Set(got.map(({ id }) => id)).size, got.length);
});

test("where no webhook may go", async () => {
  const create = (webhook) => client.runs.create(null, "counter", { input: {}, webhook });
  for (const url of ["http://169.254.169.254/", "/runs", "http://user:secret@example.com/"]) {
    await refused(422, create(url));
  }
});

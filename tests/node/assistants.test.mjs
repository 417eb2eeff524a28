// Assistants: the ones that are there, one's own, their versions, and what their graphs look like.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, newThread, refused } from "./helpers.mjs";

const client = connect();

test("each graph has an assistant", async () => {
  const [assistant, ...others] = await client.assistants.search({ graphId: "counter", metadata: { created_by: "system" } });
  assert.deepEqual(others, []);
  assert.equal(assistant.graph_id, "counter");
  assert.deepEqual(await client.assistants.get(assistant.assistant_id), assistant);
  const page = await client.assistants.search({ limit: 2, includePagination: true });
  assert.deepEqual([page.assistants.length, page.next], [2, "2"]);
});

test("one's own, with versions", async () => {
  const team = crypto.randomUUID();
  const made = await client.assistants.create({
    graphId: "counter", name: "Counter of a team", metadata: { team }, config: { configurable: { k: "one" } },
  });
  const id = made.assistant_id;
  assert.deepEqual([made.version, made.context], [1, { k: "one" }]);
  const changed = await client.assistants.update(id, { graphId: "counter", metadata: { more: 1 }, context: { k: "two" } });
  assert.deepEqual([changed.version, changed.context.k, changed.metadata], [2, "two", { team, more: 1 }]);
  const versions = await client.assistants.getVersions(id);
  assert.deepEqual(versions.map((each) => [each.version, each.context.k]), [[2, "two"], [1, "one"]]);
  const old = await client.assistants.setLatest(id, 1);
  assert.deepEqual([old.version, old.context.k], [1, "one"]);
  await refused(404, client.assistants.setLatest(id, 9));

  assert.deepEqual((await client.assistants.search({ metadata: { team } })).map((each) => each.assistant_id), [id]);
  assert.equal(await client.assistants.count({ metadata: { team } }), 1);
  const same = await client.assistants.create({ graphId: "counter", assistantId: id, ifExists: "do_nothing" });
  assert.equal(same.name, "Counter of a team");
  await refused(409, client.assistants.create({ graphId: "counter", assistantId: id }));

  const threadId = await newThread(client);
  assert.equal((await client.runs.wait(threadId, id, { input: {} })).count, 2);
  await client.assistants.delete(id);
  await refused(404, client.assistants.get(id));
});

test("drawings", async () => {
  const [{ assistant_id: id }] = await client.assistants.search({ graphId: "nested", limit: 1 });
  const drawing = await client.assistants.getGraph(id);
  assert.deepEqual(drawing.nodes.map((node) => node.id), ["__start__", "before", "inside", "__end__"]);
  assert.deepEqual(drawing.edges[0], { source: "__start__", target: "before" });
  const whole = await client.assistants.getGraph("nested", { xray: true });
  assert.ok(whole.nodes.some((node) => node.id === "inside:second"), JSON.stringify(whole.nodes));
  assert.deepEqual(await client.assistants.getGraph("nested", { xray: 1 }), whole);
});

test("schemas", async () => {
  const schemas = await client.assistants.getSchemas("counter");
  assert.equal(schemas.graph_id, "counter");
  assert.equal(schemas.input_schema.properties.by.type, "string");
  assert.ok("count" in schemas.state_schema.properties);
  const inside = await client.assistants.getSubgraphs("nested");
  assert.deepEqual(Object.keys(inside), ["inside"]);
  assert.deepEqual(await client.assistants.getSubgraphs("nested", { namespace: "inside", recurse: true }), inside);
});

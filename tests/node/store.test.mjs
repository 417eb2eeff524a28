// The store: items by namespace and key.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, refused } from "./helpers.mjs";

const client = connect();

test("put, get, search, list, delete", async () => {
  const root = crypto.randomUUID();
  const [ada, ben] = [[root, "people", "ada"], [root, "people", "ben"]];
  assert.equal(await client.store.putItem(ada, "likes", { drink: "tea", cups: 3 }), undefined);
  await client.store.putItem(ada, "needs", { drink: "water", cups: 8 }, { index: false, ttl: 60 });
  await client.store.putItem(ben, "likes", { drink: "tea", cups: 1 });

  const item = await client.store.getItem(ada, "likes");
  assert.deepEqual([item.namespace, item.key, item.value], [ada, "likes", { drink: "tea", cups: 3 }]);
  assert.ok(new Date(item.createdAt) <= new Date(item.updatedAt));
  assert.equal(await client.store.getItem(ada, "nothing"), null);

  const tea = await client.store.searchItems([root], { filter: { drink: "tea" } });
  assert.deepEqual(tea.items.map((each) => each.namespace[2]).sort(), ["ada", "ben"]);
  const many = await client.store.searchItems([root], { filter: { cups: { $gte: 3 } } });
  assert.deepEqual(many.items.map((each) => each.key).sort(), ["likes", "needs"]);
  assert.equal((await client.store.searchItems([root], { limit: 2 })).items.length, 2);

  const { namespaces } = await client.store.listNamespaces({ prefix: [root] });
  assert.deepEqual(namespaces.sort(), [ada, ben]);
  const shallow = await client.store.listNamespaces({ prefix: [root], maxDepth: 2 });
  assert.deepEqual(shallow.namespaces, [[root, "people"]]);

  assert.equal(await client.store.deleteItem(ada, "likes"), undefined);
  assert.equal(await client.store.getItem(ada, "likes"), null);
  await client.store.deleteItem(ada, "likes");
  await refused(422, client.store.putItem(ada, "text", "not an object"));
});

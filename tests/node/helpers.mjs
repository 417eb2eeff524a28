// What all tests share: a client of the server that pytest started, and ways to collect and to wait.
import assert from "node:assert/strict";

const sdk = process.env.CRONLEDGER_SDK ?? "@langchain/langgraph-sdk";
const { Client } = await import(sdk);

/** Options of a test of what the former client has not: fields and methods it drops or sends otherwise. */
export const today = { skip: sdk === "former-sdk" && "the former client has no such thing" };

const apiUrl = process.env.CRONLEDGER_URL;
assert.ok(apiUrl, "CRONLEDGER_URL names no server");

/** A client that repeats nothing: a repeated request would hide what went wrong with the first. */
export function connect(options = {}) {
  const { fetch, ...more } = options;
  return new Client({ apiUrl, apiKey: null, callerOptions: { maxRetries: 0, fetch }, ...more });
}

/** A client, and the requests that it has made ("POST /threads"). */
export function watched(options = {}) {
  const requests = [];
  const onRequest = (url, init) => {
    requests.push(`${init.method ?? "GET"} ${url.pathname}`);
    return init;
  };
  return { client: connect({ ...options, onRequest }), requests };
}

export async function newThread(client) {
  return (await client.threads.create()).thread_id;
}

/** All parts of a stream. */
export async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

/** The data of the events of that name. */
export function dataOf(parts, event) {
  return parts.filter((part) => part.event === event).map((part) => part.data);
}

/** The first answer that is true. */
export async function until(ask, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert.ok(Date.now() < end, `not within ${seconds} s: ${ask}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Fail unless the request is refused with that status. */
export function refused(status, promise) {
  return assert.rejects(promise, (error) => {
    assert.equal(error.status, status, `${error}`);
    assert.equal(typeof JSON.parse(error.text).detail, "string");
    return true;
  });
}

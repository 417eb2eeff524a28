// A DOM, a component that shows what useStream has, and a wire to the server that can be cut.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import net from "node:net";
import { JSDOM } from "jsdom";

const dom = new JSDOM("<div></div>", { url: "http://localhost/" });
for (const name of ["window", "document", "navigator", "HTMLElement", "HTMLIFrameElement", "Node"]) {
  Object.defineProperty(globalThis, name, { value: dom.window[name], configurable: true, writable: true });
}

const { createElement, useEffect } = await import("react");
const { useMessages } = await import("@langchain/react");
const { createRoot } = await import("react-dom/client");

/** What is said in a graph inside. */
function Inside({ stream, graph }) {
  const texts = useMessages(stream, graph).map((message) => textOf(message));
  return createElement("p", { "data-path": graph.namespace.map((one) => one.split(":")[0]).join("/") }, texts.join("|"));
}

/** A component around a hook, in a document of its own; `now()` is what the hook has, `shown()` what is to be read. What is said in graphs inside is asked for if it is shown. */
export function mount(hook, options, showsInside = false) {
  const seen = { stream: null, texts: [] };
  function Chat() {
    const stream = hook(options);
    useEffect(() => {
      seen.stream = stream;
      seen.texts.push(stream.messages.map((message) => textOf(message)).join("|"));
    });
    const items = stream.messages.map((message, n) =>
      createElement("li", { key: message.id ?? n, "data-type": typeOf(message) }, textOf(message)));
    const graphs = [...(showsInside ? stream.subgraphs.entries() : [])].map(([id, graph]) =>
      createElement(Inside, { key: id, stream, graph }));
    return createElement("div", null, createElement("ul", null, items), graphs);
  }
  const place = dom.window.document.createElement("div");
  const root = createRoot(place);
  root.render(createElement(Chat));
  return {
    now: () => seen.stream,
    texts: () => [...new Set(seen.texts)],
    shown: () => [...place.querySelectorAll("li")].map((item) => [item.dataset.type, item.textContent]),
    inside: () => [...place.querySelectorAll("p")].map((item) => [item.dataset.path, item.textContent]),
    leave: () => root.unmount(),
  };
}

export const typeOf = (message) => message.getType?.() ?? message.type;

/** What a message says, in whichever form its content is. */
export function textOf(message) {
  const content = message.content;
  if (typeof content === "string") return content;
  return content.map((block) => block.text ?? "").join("");
}

/** A port that leads to the server, wherever that is by now; `cut` ends all connections. */
export async function wire(target) {
  const sockets = new Set();
  const listening = net.createServer((near) => {
    const far = net.connect(Number(readFileSync(target, "utf8")), "127.0.0.1");
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on("data", (data) => other.write(data));
      one.on("error", () => other.destroy());
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise((resolve) => listening.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${listening.address().port}`,
    cut: () => sockets.forEach((socket) => socket.destroy()),
    close: () => {
      listening.close();
      sockets.forEach((socket) => socket.destroy());
    },
  };
}

export const WebSocketOfDom = dom.window.WebSocket;

/** The first answer that is true. */
export async function until(ask, what, seconds = 30) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const answer = await ask();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`not within ${seconds} s: ${typeof what === "function" ? what() : what}`);
}

export async function submitted(page, input, options) {
  await until(() => page.now(), "the first render");
  page.now().submit(input, options);
  await until(() => page.now().isLoading, "a run");
}

export const idle = (page) => until(() => !page.now().isLoading, "the end of the run");

/** Waits until the page shows what the thread has, nothing doubled. A page may hear of the end by one connection first. */
export async function same(page, client) {
  const told = () => JSON.stringify(page.shown());
  const kept = await until(async () => {
    const { values } = await client.threads.getState(page.now().threadId);
    const all = values.messages.map((message) => [message.type, textOf(message)]);
    return !page.now().isLoading && isDeepStrictEqual(page.shown(), all) && all;
  }, told, 15);
  const ids = page.now().messages.map((message) => message.id);
  assert.equal(new Set(ids).size, ids.length);
  return kept;
}

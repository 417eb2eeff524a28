// A DOM, a component that shows what useStream has, and a wire to the server that can be cut.
import { readFileSync } from "node:fs";
import net from "node:net";
import { JSDOM } from "jsdom";

const dom = new JSDOM("<div></div>", { url: "http://localhost/" });
for (const name of ["window", "document", "navigator", "HTMLElement", "HTMLIFrameElement", "Node"]) {
  Object.defineProperty(globalThis, name, { value: dom.window[name], configurable: true, writable: true });
}

const { createElement, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");

/** A component around a hook, in a document of its own; `now()` is what the hook has, `shown()` what is to be read. */
export function mount(hook, options) {
  const seen = { stream: null, texts: [] };
  function Chat() {
    const stream = hook(options);
    useEffect(() => {
      seen.stream = stream;
      seen.texts.push(stream.messages.map((message) => textOf(message)).join("|"));
    });
    const items = stream.messages.map((message, n) =>
      createElement("li", { key: message.id ?? n, "data-type": typeOf(message) }, textOf(message)));
    return createElement("ul", { "data-loading": String(stream.isLoading) }, items);
  }
  const place = dom.window.document.createElement("div");
  const root = createRoot(place);
  root.render(createElement(Chat));
  return {
    now: () => seen.stream,
    texts: () => [...new Set(seen.texts)],
    shown: () => [...place.querySelectorAll("li")].map((item) => [item.dataset.type, item.textContent]),
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

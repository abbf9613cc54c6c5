// Engine.IO 4 spoken by hand, packet by packet, over HTTP long-polling and over WebSocket.

import WebSocket from "ws";
import { within } from "./wait.mjs";

const SEPARATOR = "\x1e";

/** A long-polling client that does only what the test says. */
export class Polling {
  constructor(server, path) {
    this.base = `${server.url}${path}`;
    this.query = { EIO: "4", transport: "polling" };
  }

  url() {
    return `${this.base}?${new URLSearchParams(this.query)}`;
  }

  get(options = {}) {
    return within(fetch(this.url(), options), "GET");
  }

  post(body, options = {}) {
    return within(fetch(this.url(), { method: "POST", body, ...options }), "POST");
  }

  /** The packets of the next answer. */
  async poll() {
    const response = await this.get();
    if (response.status !== 200) {
      throw new Error(`poll answered ${response.status}: ${await response.text()}`);
    }
    return (await response.text()).split(SEPARATOR);
  }

  /** Polls, answering pings, until `n` packets other than pings have come. */
  async packets(n) {
    const packets = [];
    while (packets.length < n) {
      for (const packet of await this.poll()) {
        if (packet === "2") {
          await this.send("3");
        } else {
          packets.push(packet);
        }
      }
    }
    return packets;
  }

  async send(...packets) {
    const response = await this.post(packets.join(SEPARATOR));
    const text = await response.text();
    if (response.status !== 200 || text !== "ok") {
      throw new Error(`post answered ${response.status}: ${text}`);
    }
  }

  /** Opens a session and returns its handshake. */
  async open() {
    const [packet] = await this.poll();
    if (packet[0] !== "0") {
      throw new Error(`expected an open packet, not ${packet}`);
    }
    const handshake = JSON.parse(packet.slice(1));
    this.query.sid = handshake.sid;
    return handshake;
  }
}

/** A WebSocket client that does only what the test says, but answers pings unless told otherwise. */
export class Socket {
  constructor(server, path, query = {}, options = {}) {
    const all = { EIO: "4", transport: "websocket", ...query };
    for (const key of Object.keys(all)) {
      if (all[key] === undefined) {
        delete all[key];
      }
    }
    this.answersPings = options.answersPings ?? true;
    this.ws = new WebSocket(`${server.wsUrl}${path}?${new URLSearchParams(all)}`, { perMessageDeflate: false });
    this.queue = [];
    this.waiting = [];
    this.opened = new Promise((resolve) => this.ws.once("open", resolve));
    this.closed = new Promise((resolve) => {
      this.ws.on("error", () => resolve({ code: undefined }));
      this.ws.once("close", (code) => resolve({ code }));
    });
    this.ws.on("message", (data, isBinary) => this.#take(isBinary ? data : data.toString()));
  }

  #take(packet) {
    if (packet === "2" && this.answersPings) {
      this.ws.send("3");
      return;
    }
    const next = this.waiting.shift();
    if (next) {
      next(packet);
    } else {
      this.queue.push(packet);
    }
  }

  /** The next packet; a `Buffer` if it came in a binary frame. */
  next() {
    if (this.queue.length > 0) {
      return Promise.resolve(this.queue.shift());
    }
    const packet = new Promise((resolve) => this.waiting.push(resolve));
    const closed = this.closed.then(({ code }) => {
      throw new Error(`closed (${code}) while waiting for a packet`);
    });
    return within(Promise.race([packet, closed]), "a packet");
  }

  send(...packets) {
    packets.forEach((packet) => this.ws.send(packet));
  }

  /** Opens a session and returns its handshake. */
  async open() {
    const packet = await this.next();
    if (packet[0] !== "0") {
      throw new Error(`expected an open packet, not ${packet}`);
    }
    return JSON.parse(packet.slice(1));
  }

  close() {
    this.ws.terminate();
  }

  end(ms) {
    return within(this.closed, "close of the WebSocket", ms);
  }
}

// What three people do in the chat of `examples/`, with `socket.io-client`: the transcript is the same with and without Tidegate.
// `application_scenario.py` does the same with python-socketio.

import { io } from "socket.io-client";
import { DEADLINE_MS, within } from "../lib/wait.mjs";

/** How many arguments each event has: Tidegate puts an offset behind them for clients that can recover. */
const EVENTS = {
  online: 1,
  offline: 1,
  entered: 1,
  left: 1,
  message: 1,
  whisper: 1,
  typing: 2,
  file: 1,
  echoed: 4,
  asking: 1,
  stumbled: 0,
  announcement: 1,
  bye: 1,
};

/** What never comes is waited for so long. */
const SILENCE_MS = 700;

export const CONTENT = Buffer.from(Array.from({ length: 3_000 }, (_, i) => i % 256));

/** One person with a connection, and what it received. */
class Person {
  constructor(play, name, options = {}) {
    this.name = name;
    this.heard = [];
    this.waiting = [];
    this.socket = io(play.clients, { ...play.options, forceNew: true, reconnection: false, ...options });
    for (const [event, n] of Object.entries(EVENTS)) {
      this.socket.on(event, (...args) => this.#hear(event, args.slice(0, n)));
    }
    this.socket.on("disconnect", (reason) => this.#hear("disconnect", [reason]));
  }

  #hear(event, args) {
    this.heard.push([event, ...args]);
    this.waiting.forEach((wake) => wake());
  }

  /** Waits until `event` was heard `n` times. */
  heardOf(event, n = 1) {
    const count = () => this.heard.filter(([name]) => name === event).length;
    const reached = new Promise((resolve) => {
      const look = () => count() >= n && resolve();
      this.waiting.push(look);
      look();
    });
    return within(reached, `${n} times ${event} at ${this.name}, heard ${JSON.stringify(this.heard)}`);
  }

  entered() {
    const result = new Promise((resolve) => {
      this.socket.once("connect", () => resolve("connected"));
      this.socket.once("connect_error", (error) => resolve(["refused", error.message, error.data ?? null]));
    });
    return within(result, `connect of ${this.name}`);
  }

  /** The acknowledgement's arguments, or "timeout". */
  ask(event, ...args) {
    const wait = event === "stumble" || event === "nobody-handles-this" ? SILENCE_MS : DEADLINE_MS;
    return new Promise((resolve) => {
      this.socket.timeout(wait).emit(event, ...args, (error, ...answer) => resolve(error ? "timeout" : answer));
    });
  }
}

/** Plays the scenario; `pages` is where the application's own pages are. */
export async function play(clients, pages, { transports = ["websocket"], ca } = {}) {
  const scene = { clients, pages, options: { transports, ...(ca && { ca }) } };
  const steps = [];
  const step = async (name, result) => steps.push([name, await result]);
  const people = [];
  const person = (name, options) => {
    const someone = new Person(scene, name, options);
    people.push(someone);
    return someone;
  };
  const cookie = async (user) => (await post(pages, "/login", { user })).headers.get("set-cookie").split(";")[0];
  try {
    for (const [name, headers] of [
      ["nobody", {}],
      ["forger", { cookie: "chat_user=ada.0123456789abcdef" }],
      ["mallory", { cookie: await cookie("mallory") }],
    ]) {
      await step(`${name} is refused`, person(name, { extraHeaders: headers }).entered());
    }
    const cookies = { ada: await cookie("ada"), bob: await cookie("bob"), eve: await cookie("eve") };
    const ada = person("ada", { extraHeaders: { cookie: cookies.ada }, auth: { nick: "Ada" } });
    await step("ada comes", ada.entered());
    const bob = person("bob", { extraHeaders: { cookie: cookies.bob } });
    await step("bob comes", bob.entered());
    await ada.heardOf("online");
    const ids = { [ada.socket.id]: "<ada>", [bob.socket.id]: "<bob>" };
    await talk(step, ada, bob);
    await step("an announcement to all", announce(pages, cookies.ada, { text: "tea is ready" }));
    await Promise.all([ada.heardOf("announcement"), bob.heardOf("announcement")]);
    await step("an announcement to a room", announce(pages, cookies.bob, { text: "in here", room: "tea" }));
    await Promise.all([ada.heardOf("announcement", 2), bob.heardOf("announcement", 2)]);
    await step("a stranger announces", announce(pages, "", { text: "x" }));
    await step("bob leaves the room", bob.ask("leave", "tea"));
    await step("ada says what bob does not hear", ada.ask("say", "tea", "is he gone?"));
    await step("bob is where", bob.ask("where"));
    const eve = person("eve", { extraHeaders: { cookie: cookies.eve }, transports: ["polling"] });
    await step("eve comes by polling", eve.entered());
    await Promise.all([ada.heardOf("online", 2), bob.heardOf("online")]);
    ids[eve.socket.id] = "<eve>";
    await step("eve enters and finds the history", eve.ask("enter", "tea"));
    eve.socket.disconnect();
    await Promise.all([ada.heardOf("offline"), bob.heardOf("offline")]);
    await others(step, ada, bob);
    const zoe = person("zoe", { extraHeaders: { cookie: await cookie("zoe") } });
    await step("zoe comes", zoe.entered());
    ids[zoe.socket.id] = "<zoe>";
    await step("ada expels her", ada.ask("expel", zoe.socket.id));
    await Promise.all([zoe.heardOf("disconnect"), ada.heardOf("offline", 2), bob.heardOf("offline", 2)]);
    bob.socket.emit("quit", "good night");
    await Promise.all([bob.heardOf("disconnect"), ada.heardOf("offline", 3)]);
    await step("ada is still there", ada.ask("count", 1));
    const heard = Object.fromEntries(people.map(({ name, heard }) => [name, heard]));
    return plain({ steps, heard }, ids);
  } finally {
    people.forEach(({ socket }) => socket.disconnect());
  }
}

async function talk(step, ada, bob) {
  await step("ada enters", ada.ask("enter", "tea"));
  await step("bob enters", bob.ask("enter", "tea"));
  await step("bob enters again", bob.ask("enter", "tea"));
  await step("no such room", ada.ask("enter", ""));
  for (const text of ["one", "two", "three"]) {
    await step(`ada says ${text}`, ada.ask("say", "tea", text));
  }
  await step("bob answers", bob.ask("say", "tea", "喝茶 ☕"));
  await step("bob whispers", bob.ask("whisper", "ada", "psst"));
  await step("ada types", ada.ask("typing", "tea"));
  await step("ada uploads", ada.ask("upload", "tea", "leaf.bin", CONTENT));
  await step("ada renames herself", ada.ask("rename", "Countess"));
  await step("ada whispers", ada.ask("whisper", "bob", "it is me"));
  await step("ada is where", ada.ask("where"));
  const acks = [];
  const counted = Array.from({ length: 12 }, (_, i) => ada.ask("count", i).then((answer) => acks.push(...answer)));
  await Promise.all(counted);
  await step("twelve at once", acks);
  const nested = { deep: [{ bytes: Buffer.from([0, 255]), no: null, yes: true }], text: "\u0000\u2028𝄞" };
  await step("an echo", ada.ask("echo", nested, Buffer.from("raw"), 1.5, [[]]));
  ada.socket.on("confirm?", (question, answer) => answer({ yes: question }));
  await step("ada is asked back", ada.ask("confirm", "sure?"));
  await step("bob is asked back and says nothing", bob.ask("confirm", "sure?"));
  await step("a handler that fails", ada.ask("stumble"));
  await step("an event that nobody handles", ada.ask("nobody-handles-this"));
}

/** What one does to the other. */
async function others(step, ada, bob) {
  await step("bob enters the den", bob.ask("enter", "den"));
  await step("bob invites ada", bob.ask("invite", ada.socket.id, "den"));
  await step("bob says what ada hears now", bob.ask("say", "den", "sit down"));
  await ada.heardOf("message", 7);
  await step("ada closes the den", ada.ask("clear", "den"));
  await step("bob says what nobody hears", bob.ask("say", "den", "hello?"));
  await step("bob counts", bob.ask("count", 1));
}

function post(pages, path, body, headers = {}) {
  const init = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json", ...headers } };
  return within(fetch(pages + path, init), `POST ${path}`);
}

async function announce(pages, cookie, body) {
  return (await post(pages, "/announce", body, { cookie })).status;
}

/** Bytes as text, ids by name, and nothing that JSON cannot hold. */
function plain(value, ids) {
  if (Buffer.isBuffer(value)) return `bytes ${value.toString("hex")}`;
  if (value instanceof ArrayBuffer) return plain(Buffer.from(value), ids);
  if (Array.isArray(value)) return value.map((item) => plain(item, ids));
  if (typeof value === "string") return ids[value] ?? value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item, ids)]));
}

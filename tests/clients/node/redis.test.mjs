// Publishers that speak through Redis: whatever they say, clients of Tidegate hear what clients of a Node server with the
// same adapter hear, event by event.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io as connect } from "socket.io-client";
import { EMISSIONS, Redis } from "./lib/publishers.mjs";
import { start } from "./lib/server.mjs";
import { once, within } from "./lib/wait.mjs";

const ROOMS = { near: ["a", 7, "aaaaaaaaaaaaaaaaaaaa"], far: ["b"], other: ["a"] };
/** How many emissions are said to others, to nobody, or may be lost, and so not in the transcript of `near`. */
const N_NOT_NEAR = 6;
const PATIENCE_MS = 30_000;
/** What @socket.io/redis-streams-emitter appended for each emission: see capture.mjs. */
const RECORDED = new Map(
  readFileSync(new URL("../../../crates/tidegate/tests/fixtures/bridge/streams-emitter.txt", import.meta.url), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("emitter |"))
    .map((line) => line.split(" | "))
    .map(([, name, , hex]) => [name, Buffer.from(hex, "hex").toString()]),
);

let redis;
let folder;
let tidegate;
let application;
let clients;

/** An application that lets everybody in, so that there is a second namespace. */
async function listen() {
  application = createServer((request, response) => {
    request.resume();
    response.setHeader("content-type", "application/json").end("{}");
  });
  await new Promise((resolve) => application.listen(0, "127.0.0.1", resolve));
  return application.address().port;
}

before(async () => {
  redis = await new Redis().start();
  folder = mkdtempSync(path.join(tmpdir(), "tidegate-bridge-"));
  const file = path.join(folder, "tidegate.toml");
  const lines = [
    'listen = "127.0.0.1:0"',
    "[auth]",
    "anonymous = true",
    "[app]",
    `url = "http://127.0.0.1:${await listen()}/"`,
    'secret_env = "TIDEGATE_APP_SECRET"',
    'namespaces = ["/", "/other"]',
    "spool = { enabled = false }",
    "[bridge]",
    `url = "${redis.url}"`,
  ];
  writeFileSync(file, `${lines.join("\n")}\n`);
  process.env.TIDEGATE_APP_SECRET = "a secret of more than thirty-two bytes";
  tidegate = await start("TIDEGATE_BIN", ["serve", "-c", file]);
  await until("the bridge stands", async () => Object.values((await stats()).links).every(({ state }) => state === "up"));
});
after(async () => {
  await tidegate?.stop();
  application?.close();
  await redis?.stop();
  rmSync(folder, { recursive: true });
});
beforeEach(() => {
  clients = [];
});
afterEach(async () => {
  await Promise.all(clients.map((client) => client.close()));
});

async function stats() {
  const answer = await fetch(`${tidegate.url}/api/performance/bridge/stats`);
  return answer.json();
}

/** Asks again until it holds. */
async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `not seen: ${what}`);
  }
}

async function client() {
  const made = createClient({ socket: { path: redis.socket } }).on("error", () => {});
  clients.push(made);
  return made.connect();
}

/** Binary as text, so that transcripts can be compared. */
function plain(value) {
  if (Buffer.isBuffer(value)) {
    return { binary: value.length > 100 ? `${value.length} bytes` : value.toString("hex") };
  }
  if (Array.isArray(value)) {
    return value.map(plain);
  }
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value;
}

/** Three sessions of one server, and what they hear. */
class Party {
  constructor(url) {
    this.heard = {};
    this.sockets = {};
    for (const name of ["near", "far", "other"]) {
      const socket = connect(name === "other" ? `${url}/other` : url, {
        auth: { recovery: false },
        forceNew: true,
        reconnection: false,
        transports: ["websocket"],
      });
      this.sockets[name] = socket;
      this.heard[name] = [];
      socket.on("said", (...args) => this.heard[name].push(plain(args)));
    }
  }

  async connected() {
    await Promise.all(Object.values(this.sockets).map((socket) => socket.connected || once(socket, "connect")));
    return this;
  }

  end() {
    Object.values(this.sockets).forEach((socket) => socket.disconnect());
  }
}

/** Runs `work` while sessions of both servers listen: `parties` are Tidegate's and the reference's. */
async function together(adapter, work) {
  const http = createServer();
  const reference = new Server(http, { adapter });
  reference.of("/other");
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  const parties = [];
  try {
    for (const url of [tidegate.url, `http://127.0.0.1:${http.address().port}`]) {
      parties.push(await new Party(url).connected());
    }
    await work(reference, parties);
  } finally {
    parties.forEach((party) => party.end());
    await reference.close();
  }
}

/** The ids of the sessions of one name on both servers. */
const ids = (parties, name) => parties.map((party) => party.sockets[name].id);

/** Says `name` to everybody and waits until all have heard it. */
async function mark(io, parties, name) {
  const sockets = parties.flatMap((party) => Object.values(party.sockets)).filter((socket) => socket.connected);
  const heard = sockets.map((socket) => once(socket, name, PATIENCE_MS));
  io.emit(name);
  io.of("/other").emit(name);
  await Promise.all(heard);
}

/** The recorded entries as emissions; what is too long is not recorded. */
function recorded(publisher) {
  const append = (entry) => (_, { near }) => {
    const ids = near.map((id) => `\\"${id}\\"`).join(",");
    publisher.xAdd("socket.io", "*", JSON.parse(entry.replace('\\"aaaaaaaaaaaaaaaaaaaA\\"', ids)));
  };
  const kept = EMISSIONS.filter(([name]) => RECORDED.has(name));
  return kept.map(([name]) => [name, append(RECORDED.get(name))]);
}

async function scenario(io, parties, rooms, emissions = EMISSIONS) {
  const nNear = emissions.length - N_NOT_NEAR;
  const before = await stats();
  for (const name of ["near", "far", "other"]) {
    const of = name === "other" ? io.of("/other") : io;
    of.in(ids(parties, name)).socketsJoin(ROOMS[name]);
  }
  await mark(io, parties, "joined");
  await rooms();
  for (const [, say] of emissions) {
    say(io, { near: ids(parties, "near"), far: ids(parties, "far") });
  }
  await mark(io, parties, "all said");
  assert.deepEqual(parties[0].heard, parties[1].heard);
  // The transcripts are not equal because nothing came.
  assert.equal(parties[0].heard.near.length, nNear);
  assert.equal(parties[0].heard.other.length, 2);
  let heard = 0;
  parties[0].sockets.near.on("perhaps", () => heard++);
  await until("what may be lost is heard", async () => {
    io.volatile.emit("perhaps");
    await mark(io, parties, "perhaps said");
    return heard > 0;
  });

  io.in(ids(parties, "near")).socketsLeave("a");
  io.to("a").emit("said", "nobody is left");
  const gone = parties.map((party) => once(party.sockets.far, "disconnect", PATIENCE_MS));
  io.in("b").disconnectSockets();
  const reasons = (await Promise.all(gone)).map(([reason]) => reason);
  assert.deepEqual(reasons, ["io server disconnect", "io server disconnect"]);
  await mark(io, parties, "all done");
  assert.deepEqual(parties.map((party) => party.heard.near.length), [nNear, nNear]);
  const now = await stats();
  for (const format of Object.keys(now.formats)) {
    assert.deepEqual(now.formats[format].refused, before.formats[format].refused, format);
  }
}

describe("publishers through Redis", { timeout: 120_000 }, () => {
  it("@socket.io/redis-emitter is heard as a server with the classic adapter hears it", async () => {
    const [publisher, subscriber, own] = [await client(), await client(), await client()];
    await together(createAdapter(publisher, subscriber), async (_, parties) => {
      await scenario(new Emitter(own), parties, async () => {});
    });
  });

  for (const mode of ["static", "dynamic"]) {
    it(`a server with the sharded adapter is heard in mode ${mode}`, async () => {
      const [publisher, subscriber] = [await client(), await client()];
      const adapter = createShardedAdapter(publisher, subscriber, { subscriptionMode: mode });
      await together(adapter, async (reference, parties) => {
        await scenario(reference, parties, () =>
          until("Tidegate hears the channels of its rooms", async () => {
            const heard = await own(["a", "b"]);
            return heard.every((n) => n === (mode === "static" ? 1 : 2));
          }),
        );
      });
      async function own(rooms) {
        const channels = rooms.map((room) => `socket.io#/#${room}#`);
        const counts = await publisher.sendCommand(["PUBSUB", "SHARDNUMSUB", ...channels]);
        return counts.filter((_, at) => at % 2 === 1);
      }
    });
  }

  it("what @socket.io/redis-streams-emitter appended is heard as a server with the streams adapter hears it", async () => {
    const publisher = await client();
    const emissions = recorded(publisher);
    assert.equal(emissions.length, EMISSIONS.length - 2);
    // What is not recorded is said by a server without clients, through the same connection.
    const speaker = new Server(createServer(), { adapter: createStreamsAdapter(publisher) });
    speaker.of("/other");
    await together(createStreamsAdapter(await client()), async (_, parties) => {
      await scenario(speaker, parties, async () => {}, emissions);
    });
    await speaker.close();
  });

  it("a server with the streams adapter is heard", async () => {
    const publisher = await client();
    await together(createStreamsAdapter(publisher), async (reference, parties) => {
      await scenario(reference, parties, async () => {});
    });
  });

  it("what is for servers alone is counted and told to no client", async () => {
    const own = await client();
    const before = (await stats()).formats.classic.refused.server_side ?? 0;
    new Emitter(own).serverSideEmit("ping", 1);
    await until("it is counted", async () => (await stats()).formats.classic.refused.server_side === before + 1);
  });

  it("publishing goes on when Redis comes back", async () => {
    const own = await client();
    const party = await new Party(tidegate.url).connected();
    const emitter = new Emitter(own);
    await redis.kill();
    await until("it is noticed", async () => (await stats()).links.pubsub.state === "away");
    await redis.start();
    await until("it is there again", async () => (await stats()).links.pubsub.state === "up");
    await within(own.ping(), "the publisher is there again", PATIENCE_MS);
    await mark(emitter, [party], "back");
    party.end();
  });
});

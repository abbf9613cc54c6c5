// Captures what the publishers of npm write into Redis, as fixtures of the parsers:
//
//     npm ci && node capture.mjs > ../../../crates/tidegate/tests/fixtures/bridge/node.txt
//
// @socket.io/redis-streams-emitter is not to be had from every registry; built by hand, it is captured by itself:
//
//     node capture.mjs --streams-emitter <its index.js> > ../../../crates/tidegate/tests/fixtures/bridge/streams-emitter.txt
//
// One line each: format | what was said | channel, or "entry" | payload in hexadecimal. For an entry of a stream the
// payload is the JSON of its fields. Ids of servers are random, so a new capture differs in them.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { EMISSIONS, Redis } from "./lib/publishers.mjs";

const IDS = { near: "aaaaaaaaaaaaaaaaaaaA", far: "bbbbbbbbbbbbbbbbbbbB" };
/** Longer payloads show nothing more. */
const BYTES_MAX = 2_000;
const ACTIONS = [
  ["join", (io) => io.in(IDS.near).socketsJoin(["a", "c"])],
  ["join one", (io) => io.in(["a", "b"]).except("c").socketsJoin("d")],
  ["leave", (io) => io.in("a").socketsLeave("c")],
  ["disconnect", (io) => io.in(IDS.far).disconnectSockets()],
  ["disconnect and close", (io) => io.disconnectSockets(true)],
  ["for servers", (io) => io.serverSideEmit("ping", 1)],
];
/** What only servers say. */
const OF_SERVERS = [
  ["with acknowledgement", (io) => io.timeout(10).emit("said", "answer", () => {})],
  ["who is there", (io) => void io.fetchSockets().catch(() => {})],
  ["for servers, with acknowledgement", (io) => io.serverSideEmit("ping", () => {})],
];

const redis = await new Redis().start();
const options = { socket: { path: redis.socket } };
const client = async () => await createClient(options).on("error", () => {}).connect();
const heard = [];
const listener = await client();
await listener.pSubscribe("*", (payload, channel) => heard.push([channel, payload]), true);
for (const channel of ["socket.io#/#", "socket.io#/#a#", "socket.io#/#7#", "socket.io#/#nobody#", "socket.io#/other#", "socket.io#/other#a#"]) {
  await listener.sSubscribe(channel, (payload, channel) => heard.push([channel, payload]), true);
}
const reader = await client();

function print(format, name, channel, payload) {
  if (payload.length <= BYTES_MAX) {
    console.log(`${format} | ${name} | ${channel} | ${Buffer.from(payload).toString("hex")}`);
  }
}

async function speak(format, io, says) {
  for (const [name, say] of says) {
    heard.length = 0;
    const before = (await reader.xRevRange("socket.io", "+", "-", { COUNT: 1 }))[0]?.id ?? "0-0";
    say(io, IDS);
    const start = Date.now();
    for (;;) {
      const entries = await reader.xRange("socket.io", `(${before}`, "+");
      if (heard.length > 0 || entries.length > 0) {
        heard.forEach(([channel, payload]) => print(format, name, channel, payload));
        entries.forEach((entry) => print(format, name, "entry", JSON.stringify(entry.message)));
        break;
      }
      // What a server keeps for its own clients is not said.
      if (Date.now() - start > 1_000) {
        console.error(`${format}: nothing was heard of "${name}"`);
        break;
      }
    }
  }
}

async function server(adapter) {
  const io = new Server(createServer(), { adapter });
  io.of("/other");
  // Subscriptions of the adapter are on their way.
  await reader.ping();
  return io;
}

const publisher = await client();
const [option, built] = process.argv.slice(2);
if (option === "--streams-emitter") {
  const { Emitter: StreamsEmitter } = await import(path.resolve(built));
  console.log("# Made by tests/clients/node/capture.mjs with @socket.io/redis-streams-emitter, built from socketio/socket.io at 1c3e471.");
  await speak("emitter", new StreamsEmitter(publisher), [...EMISSIONS, ...ACTIONS]);
} else {
  const versions = Object.entries(JSON.parse(readFileSync("package.json")).dependencies)
    .filter(([name]) => name.includes("redis") || name === "socket.io")
    .map(([name, version]) => `${name} ${version}`);
  console.log(`# Made by tests/clients/node/capture.mjs with ${versions.join(", ")}.`);
  await speak("classic", new Emitter(publisher), [...EMISSIONS, ...ACTIONS]);
  await speak("classic", await server(createAdapter(publisher, await client())), OF_SERVERS);
  await speak("sharded", await server(createShardedAdapter(publisher, await client())), [...EMISSIONS, ...ACTIONS, ...OF_SERVERS]);
  await speak("streams", await server(createStreamsAdapter(publisher)), [...EMISSIONS, ...ACTIONS, ...OF_SERVERS]);
}
await redis.stop();
process.exit(0);

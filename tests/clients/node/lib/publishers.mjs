// What publishers say, in every way that Socket.IO's emitters and servers know, and a Redis to say it through.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

const START_MS = 20_000;
/** The program that is started as Redis; valkey-server is another. */
const SERVER = process.env.TIDEGATE_REDIS_SERVER ?? "redis-server";

/** Values that JSON, MessagePack and a client's eyes may see differently. */
export const VALUES = [
  null,
  true,
  0,
  -1,
  255,
  65_536,
  -2_147_483_649,
  4_294_967_296,
  0.1,
  1e21,
  "",
  'quotes " and \\ and \n',
  "价格 🎉",
  "x".repeat(70_000),
  [],
  {},
  { nested: [{ deep: { list: [1, [2, [3]]] } }] },
  { empty: undefined, none: null },
  new Date(0),
  { at: new Date(1_735_689_600_500) },
];

/**
 * Each has a name and says something to `io`, an emitter or a server. `near` and `far` are ids of sessions: the first
 * is in room `a`, the second in `b`.
 */
export const EMISSIONS = [
  ["everybody", (io) => io.emit("said", { text: "hello" })],
  ["no argument", (io) => io.emit("said")],
  ["several arguments", (io) => io.emit("said", 1, "two", { three: 3 })],
  ...VALUES.map((value, at) => [`value ${at}`, (io) => io.emit("said", value)]),
  ["binary", (io) => io.emit("said", Buffer.from([0, 1, 2, 255]))],
  ["binary inside", (io) => io.emit("said", { parts: [Buffer.from("one"), { two: new Uint8Array([9, 8]) }] }, "end")],
  ["empty binary", (io) => io.to("a").emit("said", Buffer.alloc(0))],
  ["large binary", (io) => io.emit("said", Buffer.alloc(70_000, 7))],
  ["one room", (io) => io.to("a").emit("said", "to a")],
  ["one room, binary", (io) => io.to("a").emit("said", Buffer.from("to a"))],
  ["a room with a number as its name", (io) => io.to(7).emit("said", "to 7")],
  ["a room of twenty letters", (io) => io.to("aaaaaaaaaaaaaaaaaaaa").emit("said", "to a long name")],
  ["a room that nobody is in", (io) => io.to("nobody").emit("said", "to nobody")],
  ["several rooms", (io) => io.to(["a", "b"]).emit("said", "to a and b")],
  ["rooms one by one", (io) => io.in("a").in("b").emit("said", "to a and b again")],
  ["everybody but a room", (io) => io.except("a").emit("said", "not to a")],
  ["a room but those of another", (io) => io.to(["a", "b"]).except("b").emit("said", "to a, not b")],
  ["one session", (io, { near }) => io.to(near).emit("said", "to one")],
  ["everybody but one session", (io, { near }) => io.except(near).emit("said", "not to one")],
  ["volatile", (io) => io.volatile.emit("perhaps", "may be lost")],
  ["uncompressed", (io) => io.compress(false).emit("said", "plain")],
  ["another namespace", (io) => io.of("/other").emit("said", "in /other")],
  ["a room of another namespace", (io) => io.of("/other").to("a").emit("said", "in a of /other")],
];

/** A Redis of one's own on a socket in a folder of its own. */
export class Redis {
  constructor() {
    this.folder = mkdtempSync(path.join(tmpdir(), "tidegate-redis-"));
    this.socket = path.join(this.folder, "redis.sock");
    this.url = `redis+unix://${this.socket}`;
  }

  async start() {
    const args = ["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", this.socket, "--dir", this.folder];
    this.child = spawn(SERVER, args, { stdio: "ignore" });
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    process.once("exit", () => this.child.kill("SIGKILL"));
    const deadline = Date.now() + START_MS;
    for (;;) {
      const error = await new Promise((resolve) => {
        const connection = createConnection(this.socket, () => resolve(null));
        connection.once("error", resolve);
        connection.once("connect", () => connection.destroy());
      });
      if (!error) {
        return this;
      }
      if (Date.now() > deadline) {
        throw error;
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async kill() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  async stop() {
    await this.kill();
    rmSync(this.folder, { recursive: true });
  }
}

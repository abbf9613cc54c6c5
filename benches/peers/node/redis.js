// Peer row: npm socket.io with one of its Redis adapters.
// Usage: node redis.js HOST:PORT SOCKET classic|sharded|streams
"use strict";
const { createServer } = require("node:http");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const streams = require("@socket.io/redis-streams-adapter");
const { createClient } = require("redis");
const { Server } = require("socket.io");

const [address, path, format] = process.argv.slice(2);
const [host, port] = address.split(":");

async function main() {
  const client = async () => createClient({ socket: { path } }).on("error", () => {}).connect();
  const [publisher, subscriber] = [await client(), await client()];
  const adapters = {
    classic: () => createAdapter(publisher, subscriber),
    sharded: () => createShardedAdapter(publisher, subscriber),
    streams: () => streams.createAdapter(publisher),
  };
  const http = createServer();
  const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, adapter: adapters[format]() });
  io.of("/");
  // What the adapter subscribed to, or reads, is heard before anybody may connect.
  const heard = { classic: /psub=[1-9]/, sharded: /ssub=[1-9]/, streams: /cmd=xread / }[format];
  while (!heard.test(await publisher.sendCommand(["CLIENT", "LIST"])));
  http.listen(Number(port), host);
}

main();

// Peer row: one handler, `count`, in socket.io itself, behind Tidegate by the adapter, or behind it without any library.
// Usage: node hook.js HOST:PORT direct|adapter|plain SECRET
"use strict";
const { createServer } = require("node:http");
const { join } = require("node:path");
const { Server } = require("socket.io");

const [address, kind, secret] = process.argv.slice(2);
const [host, port] = address.split(":");
const ADAPTER = join(__dirname, "../../../examples/express/tidegate-adapter.mjs");

const count = (n, ack) => ack(n + 1);

function withHandler(io) {
  io.on("connection", (socket) => socket.on("count", count));
}

// Signatures are not checked: this is the least that an application in Node can cost.
function plain(request, response) {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const asked = JSON.parse(Buffer.concat(pieces));
    const answer = {};
    if (asked.event === "count") count(asked.args[0], (n) => (answer.ack = [n]));
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(answer));
  });
}

async function main() {
  const server = createServer();
  if (kind === "direct") {
    withHandler(new Server(server, { perMessageDeflate: false }));
  } else if (kind === "adapter") {
    const { TidegateServer } = await import(ADAPTER);
    // Nobody is told anything outside of an answer, so the API is never asked.
    withHandler(new TidegateServer(server, { secret, url: "http://127.0.0.1:9", apiKey: "none" }));
  } else {
    server.on("request", plain);
  }
  server.listen({ host, port: Number(port), backlog: 4096 });
}

main();

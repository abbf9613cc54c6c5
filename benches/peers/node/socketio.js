// Peer row: npm socket.io as its manual sets it up; `join` puts the sender into a room, `pub` goes to room `r`.
// Usage: node socketio.js HOST:PORT [deflate]
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const [host, port] = process.argv[2].split(":");
const server = createServer();
// With `deflate` the library's own threshold (1,024 bytes) and settings apply.
const io = new Server(server, { perMessageDeflate: process.argv[3] === "deflate" });

io.on("connection", (socket) => {
  socket.on("join", (room) => socket.join(room));
  socket.on("pub", (message) => io.to("r").emit("m", message));
});
server.listen({ host, port: Number(port), backlog: 4096 });

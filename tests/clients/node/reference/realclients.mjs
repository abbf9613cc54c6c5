// The server of the client tests made of the reference packages: shows that the tests ask what they should.

import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const recovers = !process.argv.includes("--no-recovery");
const connectionStateRecovery = recovers ? { maxDisconnectionDuration: 60_000 } : undefined;
const io = new Server(http, { connectionStateRecovery, maxHttpBufferSize: 4e6 });

const list = (rooms) => (Array.isArray(rooms) ? rooms : [rooms]);
const answer = (ack, value = { ok: true }) => typeof ack === "function" && ack(value);

/** Batch events as Tidegate sends them, as far as these tests need them. */
function emitTo(namespace, room, event, data) {
  for (const socket of namespace.sockets.values()) {
    if (!socket.rooms.has(room)) {
      continue;
    }
    if (socket.handshake.auth.batch !== true) {
      continue;
    }
    socket.data.waiting ??= [];
    socket.data.waiting.push({ event, data });
    if (socket.data.waiting.length === 1) {
      setImmediate(() => {
        while (socket.data.waiting.length > 0) {
          const messages = socket.data.waiting.splice(0, 100);
          socket.emit("batch", { type: "batch", batch_size: messages.length, messages });
        }
      });
    }
  }
  const batched = [...namespace.sockets.values()].filter((socket) => socket.handshake.auth.batch === true);
  namespace.to(room).except(batched.map(({ id }) => id)).emit(event, data);
}

function serve(socket) {
  const { nsp } = socket;
  socket.on("join", (rooms, ack) => {
    socket.join(list(rooms));
    answer(ack);
  });
  socket.on("leave", (rooms, ack) => {
    list(rooms).forEach((room) => socket.leave(room));
    answer(ack);
  });
  socket.on("publish", ({ room, event, data }, ack) => {
    emitTo(nsp, room, event, data);
    answer(ack);
  });
  socket.on("echo", (...args) => {
    const ack = typeof args.at(-1) === "function" ? args.pop() : undefined;
    socket.emit("echo-back", ...args);
    ack?.(...args);
  });
  socket.on("tick", ({ room, n }, ack) => {
    for (let i = 0; i < n; i += 1) {
      emitTo(nsp, room, "m", { i });
    }
    answer(ack);
  });
  socket.on("ask-me", () => socket.emit("question", "really?", (value) => socket.emit("answered", value)));
  socket.on("binary-me", () => socket.emit("bin", Buffer.from([1, 2, 3]), { deep: Buffer.from([4, 5]) }));
  socket.on("boom-disconnect", () => socket.disconnect());
  socket.on("cut-me", () => socket.conn.transport.socket._socket.destroy());
  socket.on("string-tail", () => socket.emit("s", "a", "b"));
}

io.on("connection", serve);
io.of("/auth").use((socket, next) => {
  next(socket.handshake.auth.token === "let-me-in" ? undefined : new Error("unauthenticated"));
});
io.of("/auth").on("connection", serve);

const [host, port] = (process.argv[2] ?? "127.0.0.1:3000").split(":");
http.listen(Number(port), host, () => console.log(`listening on ${host}:${http.address().port}`));
process.on("SIGTERM", () => process.exit(0));

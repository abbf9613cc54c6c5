// The conformance server made of the reference packages: shows that the conformance tests ask what they should.

import { createServer } from "node:http";
import { Server as EngineServer } from "engine.io";
import { Server as SocketServer } from "socket.io";
import { WebSocketServer } from "ws";

const timing = { pingInterval: 300, pingTimeout: 200, maxHttpBufferSize: 1e6, cors: { origin: "*" } };
const http = createServer((request, response) => response.writeHead(404).end());

const engine = new EngineServer(timing);
engine.attach(http, { path: "/engine.io/", destroyUpgrade: false });
engine.on("connection", (socket) => socket.on("data", (...args) => socket.send(...args)));

const io = new SocketServer(http, { ...timing, connectTimeout: 1000, destroyUpgrade: false });
const serve = (socket) => {
  socket.emit("auth", socket.handshake.auth);
  socket.on("message", (...args) => socket.emit("message-back", ...args));
  socket.on("message-with-ack", (...args) => args.pop()(...args));
};
io.on("connection", serve);
io.of("/custom").on("connection", serve);

const perMessageDeflate = { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true };
// The suite sends more small pieces in a row than the package takes by default.
const floods = { maxFragments: 1 << 20, maxBufferedChunks: 1 << 20, maxPendingAutoPongs: 1 << 20 };
const echo = new WebSocketServer({ noServer: true, maxPayload: 64 << 20, perMessageDeflate, ...floods });
http.on("upgrade", (request, socket, head) => {
  if (request.url === "/echo") {
    echo.handleUpgrade(request, socket, head, (ws) => {
      ws.on("error", () => {});
      ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
    });
  }
});

const [host, port] = (process.argv[2] ?? "127.0.0.1:3000").split(":");
http.listen(Number(port), host, () => console.log(`listening on ${host}:${http.address().port}`));
process.on("SIGTERM", () => process.exit(0));

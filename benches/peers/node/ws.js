// Peer row: npm ws, every text message goes to every connection.
// Usage: node ws.js HOST:PORT
"use strict";
const { WebSocket, WebSocketServer } = require("ws");

const [host, port] = process.argv[2].split(":");
const server = new WebSocketServer({ host, port: Number(port), backlog: 4096, perMessageDeflate: false });

server.on("connection", (socket) => {
  socket.on("error", () => socket.terminate());
  socket.on("message", (message) => {
    // A string takes the library's shortest path; one conversion serves all receivers.
    const text = message.toString();
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(text);
    }
  });
});

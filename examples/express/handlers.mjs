// The chat itself: socket.io handlers, the same with and without Tidegate.

import { createHash } from "node:crypto";
import { userOf } from "./identity.mjs";
import * as models from "./models.mjs";

const BANNED = new Set(["mallory"]);

export function register(io) {
  io.use((socket, next) => {
    const user = userOf(socket.handshake.headers.cookie);
    if (!user) return next(Object.assign(new Error("who are you?"), { data: { login: "/login" } }));
    if (BANNED.has(user)) return next(new Error("Connection rejected by server"));
    Object.assign(socket.data, { user, nick: socket.handshake.auth.nick ?? user });
    next();
  });

  io.on("connection", (socket) => {
    const { user } = socket.data;
    io.to("lobby").emit("online", { user });
    socket.join(["lobby", `user:${user}`]);

    socket.on("disconnect", (reason) => socket.to("lobby").emit("offline", { sid: socket.id, reason }));

    socket.on("enter", async (room, ack) => {
      if (typeof room !== "string" || room.length < 1 || room.length > 64) {
        return ack({ ok: false, error: "a room has 1 to 64 characters" });
      }
      io.to(room).emit("entered", { user: socket.data.user, room });
      socket.join(room);
      ack({ ok: true, history: await models.newest(room) });
    });

    socket.on("leave", (room, ack) => {
      io.to(room).emit("left", { user: socket.data.user, room });
      socket.leave(room);
      ack({ ok: true });
    });

    socket.on("say", async (room, text, ack) => {
      const message = await models.store(room, socket.data.user, text);
      io.to(room).emit("message", message);
      ack("stored", message.id);
    });

    socket.on("whisper", (to, text, ack) => {
      io.to(`user:${to}`).emit("whisper", { from: socket.data.nick, text });
      ack();
    });

    socket.on("typing", (room, ack) => {
      socket.to(room).emit("typing", room, socket.data.nick);
      ack?.();
    });

    socket.on("upload", (room, name, content, ack) => {
      socket.to(room).emit("file", { room, name, content });
      const sha256 = createHash("sha256").update(content).digest("hex");
      ack({ size: content.length, sha256, head: content.subarray(0, 4) });
    });

    socket.on("rename", (nick, ack) => {
      const before = socket.data.nick;
      socket.data.nick = nick;
      ack({ before, now: nick });
    });

    socket.on("where", (ack) => ack([...socket.rooms].filter((room) => room !== socket.id).sort()));

    socket.on("count", (n, ack) => ack(n + 1));

    socket.on("echo", (...args) => {
      const ack = args.pop();
      socket.emit("echoed", ...args);
      ack();
    });

    socket.on("confirm", async (question, ack) => {
      socket.emit("asking", question);
      const answer = await socket.timeout(2_000).emitWithAck("confirm?", { question }).catch(() => null);
      ack({ answer });
    });

    socket.on("invite", async (other, room, ack) => {
      io.to(room).emit("entered", { user: "a guest", room });
      io.in(other).socketsJoin(room);
      io.to(room).emit("message", { id: 0, room, user: socket.data.user, text: "welcome" });
      const [guest] = await io.in(other).fetchSockets();
      ack({ guest: guest.data.user });
    });

    socket.on("expel", (other, ack) => {
      io.to(other).emit("bye", "out");
      io.in(other).disconnectSockets();
      ack();
    });

    socket.on("clear", (room, ack) => {
      io.in(room).socketsLeave(room);
      io.to(room).emit("left", { user: "nobody hears this", room });
      ack();
    });

    socket.on("stumble", () => socket.emit("stumbled"));

    socket.on("quit", (word) => {
      socket.emit("bye", word);
      socket.disconnect();
    });
  });
}

// A small chat: express for pages, socket.io for what is live, Drizzle for what stays. `attach(server)` puts it on an HTTP server.

import express from "express";
import { register } from "./handlers.mjs";
import { COOKIE, sign, userOf } from "./identity.mjs";
import * as models from "./models.mjs";
import { realtime } from "./realtime.mjs";

/** Puts the application on a server; returns what ends both. */
export async function attach(server) {
  await models.createTables();
  const app = express();
  // Before Socket.IO, which hands on what is not its own to whoever was there.
  server.on("request", app);
  const io = realtime(server);
  register(io);

  app.use(express.json());

  app.post("/login", (req, res) => {
    const { user } = req.body;
    if (!/^[a-z]{1,32}$/.test(user)) return res.status(422).json({ detail: "user" });
    res.cookie(COOKIE, sign(user), { httpOnly: true, sameSite: "lax" }).json({ user });
  });

  app.post("/announce", (req, res) => {
    const from = userOf(req.headers.cookie);
    if (!from) return res.sendStatus(401);
    const { room, text } = req.body;
    (room ? io.to(room) : io).emit("announcement", { from, text });
    res.json({ ok: true });
  });

  app.get("/rooms/:room/messages", async (req, res) => {
    const { room } = req.params;
    res.json({ count: await models.countOf(room), messages: await models.newest(room) });
  });

  return async () => {
    server.closeAllConnections();
    await io.close();
    await models.close();
  };
}

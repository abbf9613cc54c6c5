// The Socket.IO server of the chat: its own, or Tidegate's. This file is all that changes.

import { Server } from "socket.io";
import { TidegateServer } from "./tidegate-adapter.mjs";

export function realtime(httpServer) {
  if (process.env.TIDEGATE_APP_SECRET) {
    return new TidegateServer(httpServer, {
      secret: process.env.TIDEGATE_APP_SECRET,
      url: process.env.TIDEGATE_URL,
      apiKey: process.env.TIDEGATE_API_KEY,
      user: (socket) => socket.data.user,
    });
  }
  return new Server(httpServer, { cors: { origin: "*" } });
}

// Unpacks batch events: connect with `auth: { batch: true }` and call this once on the socket.

/** Calls the handlers of each message in a `batch` event as if the message had come alone. */
export function unbatch(socket) {
  socket.on("batch", ({ messages }) => {
    for (const { event, data } of messages) {
      socket.listeners(event).forEach((handler) => handler(data));
    }
  });
}

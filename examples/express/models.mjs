// What the chat keeps: messages, here in memory; the newest of each room.

const ROOMS_MAX = 1_000;
const HISTORY = 10;
const rooms = new Map();
let last = 0;

export async function store(room, user, text) {
  last += 1;
  const message = { id: last, room, user, text };
  const known = rooms.get(room) ?? [];
  rooms.delete(room);
  rooms.set(room, [...known.slice(1 - HISTORY), message]);
  if (rooms.size > ROOMS_MAX) rooms.delete(rooms.keys().next().value);
  return message;
}

export async function newest(room) {
  return rooms.get(room) ?? [];
}

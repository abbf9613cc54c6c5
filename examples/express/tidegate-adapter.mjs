// Puts a socket.io application behind Tidegate: one line changes, the handlers do not.
//
//     const io = new Server(httpServer);                                  // before: the application serves Socket.IO itself
//     const io = new TidegateServer(httpServer, { secret, url, apiKey }); // behind Tidegate
//
// The path that served Socket.IO (`/socket.io/`) now answers Tidegate's hook:
// `[app] url = "http://127.0.0.1:3000/socket.io/"`. Needs Node 20 and nothing else.
//
// What it covers
//   * `io.use`, `io.on("connection")`, `io.of` (name the namespaces in `app.namespaces`), `socket.on`, `once`, `off`, `onAny`,
//     `socket.use`, acknowledgements by callback, refusals by `next(error)` with `error.data`, `disconnecting`, `disconnect`.
//   * `socket.emit`, `to`, `in`, `except`, `broadcast`, `volatile`, `timeout`, `emitWithAck`, `join`, `leave`, `rooms`, `data`,
//     `handshake`, `request.headers`, `disconnect`; `io.emit`, `to`, `in`, `except`, `timeout`, `emitWithAck`,
//     `socketsJoin`, `socketsLeave`, `disconnectSockets` and `fetchSockets` of rooms. Within a handler what concerns its own client
//     and all messages travel in the answer to the hook, in the order in which they were called; everything else goes to
//     Tidegate's API, with a key whose role has `publish = ["*"]` and `act = ["*"]`.
//   * Signatures, age and repetition of requests are checked; what is forged, old or repeated is refused and counted.
//
// What it does not cover throws `NotBehindTidegate` with what to do instead: `io.engine`, `adapter`, `socket.conn`, `serverSideEmit`,
// `onAnyOutgoing` and the rest of `NOT_HERE`; options of socket.io's server, which are settings of Tidegate; `fetchSockets` and
// `disconnectSockets` of everybody or with exceptions, namespaces by pattern, a question (`emit` with callback) to a client that
// is just being connected.
//
// What differs
//   * The events of one client come one after the other. The next one comes when the handler has acknowledged, or when it has
//     returned and its promise is settled. A handler that takes the callback, by name, among rest arguments, by default or by
//     `arguments`, and never calls it holds up that client for `ackWaitMs` (keep it below `app.timeout`); an acknowledgement after
//     that is lost, told and counted. One that cannot get at the callback, or whose promise is settled, is not waited for.
//     Messages sent right after an acknowledgement may reach the client before it.
//   * Rooms are texts: 5 and "5" are one. More messages than an answer holds go to the API before it, in order.
//   * `socket.rooms` has the rooms that the client's own listeners put it into, not those that others did.
//   * `socket.data` is kept by Tidegate as JSON (`app.data_bytes_max`) together with these. After a restart of this process,
//     and in each of its workers, listeners of `connection` run again for a client that is there, with `socket.recovered` true and
//     without effect on it; `handshake` is empty then, and variables that listeners close over are new.
//   * `socket.disconnect()` in a listener of `connection` refuses the client: it gets `connect_error`. With several namespaces
//     `socket.disconnect(true)` comes before the acknowledgement.
//   * `io.sockets.sockets` has the clients that this process has met; `local` is the same as without it.
//   * `disconnect` is told when the session is over for good: a client that comes back in time has only been away.

import { AsyncLocalStorage } from "node:async_hooks";
import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { EventEmitter } from "node:events";
import { createServer } from "node:http";
import { setImmediate as soon, setTimeout as after } from "node:timers/promises";

const SECRET_BYTES_MIN = 32;
const BODY_BYTES_MAX = 16 << 20;
/** The clocks of Tidegate and of this process may be so far apart. */
const AHEAD_S_MAX = 5;
const ACK_MS_MAX = 60_000;
/** Messages of one answer or request, and their bytes: Tidegate reads 1 MiB (`app.answer_bytes_max`, `http.body_bytes_max`). */
const MESSAGES_MAX = 1_000;
const MESSAGES_BYTES_MAX = 512 << 10;
/** Rooms and exceptions of one message. */
const TARGETS_MAX = 1_000;
/** What waits for Tidegate; more throws. */
const WAITING_MAX = 100_000;
const WAITING_BYTES_MAX = 64 << 20;
/** A request that Tidegate has no place for now is sent so often, within so long. */
const ATTEMPTS_MAX = 6;
const PATIENCE_MS_MAX = 15_000;
/** How long a client that is let in may take to be there, for messages that its answer had no place for. */
const ENTRY_MS_MAX = 5_000;
const ENTRY_POLL_MS = 20;
const BOOTS_MAX = 16;
const BINARY = "$binary";
const RESERVED_EVENTS = new Set(["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"]);

/** Tidegate's close reasons in the words of socket.io. */
const REASONS = {
  client_left: "client namespace disconnect",
  kicked: "server namespace disconnect",
  ping_timeout: "ping timeout",
  transport_closed: "transport close",
  transport_error: "transport error",
};

/** Something socket.io can do that has no counterpart here; the text says what to do instead. */
export class NotBehindTidegate extends Error {}

/** Tidegate did not take a message or a call; the text says why. With `retryAfterMs` it did nothing, and may be asked again then. */
export class TidegateUnavailable extends Error {
  constructor(why, retryAfterMs) {
    super(why);
    this.retryAfterMs = retryAfterMs;
  }
}

/** A request that is not to be acted on, with the HTTP status that says so. */
export class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

const BY_OTHERS = "there are no other Socket.IO servers; use what your workers share";
const ROOMS = "Tidegate knows rooms and members: io.in(room).fetchSockets(), GET /api/rooms";
const OUTGOING = "messages go out at Tidegate; listen where you emit";
const CONNECTION = "Tidegate holds the connection; ask GET /api/connections/{id} of it";

/** What socket.io can do and this cannot, and what to do instead. */
const NOT_HERE = {
  io: {
    adapter: ROOMS,
    attachApp: "give a server of node:http",
    bind: "Tidegate holds the connections; give a server of node:http",
    connectTimeout: "transport.connect_timeout of Tidegate",
    engine: "Tidegate holds the connections; use io.use() and its settings",
    serverSideEmit: BY_OTHERS,
    serverSideEmitWithAck: BY_OTHERS,
  },
  namespace: { adapter: ROOMS, serverSideEmit: BY_OTHERS, serverSideEmitWithAck: BY_OTHERS },
  socket: {
    adapter: ROOMS,
    client: CONNECTION,
    conn: CONNECTION,
    listenersAnyOutgoing: OUTGOING,
    offAnyOutgoing: OUTGOING,
    onAnyOutgoing: OUTGOING,
    prependAnyOutgoing: OUTGOING,
  },
  "remote socket": { handshake: "only its own listeners have it; copy what you need into socket.data" },
};

/** Options of socket.io's server, by what takes their place; the others have none. */
const OPTIONS = {
  adapter: "leave it out, Tidegate is what the workers share",
  allowRequest: "use io.use(), or `origins` of Tidegate",
  connectionStateRecovery: "`recovery.window` of Tidegate",
  connectTimeout: "`transport.connect_timeout` of Tidegate",
  cors: "`origins` of Tidegate",
  maxHttpBufferSize: "`transport.payload_bytes_max` of Tidegate",
  perMessageDeflate: "`deflate.enabled` of Tidegate",
  pingInterval: "`transport.ping_interval` of Tidegate",
  pingTimeout: "`transport.ping_timeout` of Tidegate",
  serveClient: "serve socket.io.js yourself (npm socket.io-client, folder dist)",
  transports: "`transport.polling` and `transport.websocket` of Tidegate",
  upgradeTimeout: "`transport.upgrade_timeout` of Tidegate",
};

/** Lets whoever looks at what is not here know it. */
function refuse(prototype, what) {
  for (const [name, instead] of Object.entries(NOT_HERE[what])) {
    const get = () => {
      throw new NotBehindTidegate(`${what}.${name}: ${instead}`);
    };
    Object.defineProperty(prototype, name, { get });
  }
}

// === What Tidegate sends ===

/**
 * Ids of requests that were acted on, for as long as a signature counts. Two generations: nothing is searched, and the older one
 * goes when the younger is old or full. Where that is early, what is as old as the ids that went is refused, since it may have
 * been there before; what is newer is served. The default takes 15 MB (74 bytes an id) and forgets nothing early below 1,500
 * requests a second.
 *
 * It belongs to one process: with several workers give `new TidegateServer(…, { seen })` an object with the same `first` and `has`,
 * which may return promises, over one store for all, such as Redis with SET NX EX and EXISTS.
 */
export class Seen {
  constructor(seconds, { idsMax = 200_000, now = () => performance.now() / 1000 } = {}) {
    Object.assign(this, { seconds, idsMax, now, young: new Set(), old: new Set(), turned: now() });
    /** The newest timestamps in both generations, and of those that went early; how often that was. */
    Object.assign(this, { youngest: 0, oldest: 0, forgotten: { stamp: 0, at: -Infinity }, forgotEarly: 0 });
  }

  /** Whether this id, in a request of that time, was not there before; it is from now on. */
  first(id, stamp) {
    if (this.has(id, stamp)) return false;
    if (this.young.size >= Math.ceil(this.idsMax / 2)) {
      const isEarly = this.old.size > 0 && this.now() - this.turned <= this.seconds;
      if (isEarly) {
        this.forgotten = { stamp: Math.max(this.oldest, this.forgotten.stamp), at: this.now() };
        this.forgotEarly += 1;
      }
      this.#turn(this.young);
    }
    this.young.add(id);
    this.youngest = Math.max(this.youngest, stamp);
    return true;
  }

  /** Whether it was there before; throws `Refused` where that is forgotten. */
  has(id, stamp) {
    const passed = this.now() - this.turned;
    if (passed > this.seconds) this.#turn(passed > 2 * this.seconds ? new Set() : this.young);
    if (this.young.has(id) || this.old.has(id)) return true;
    // Later than that they are too old by themselves.
    if (stamp <= this.forgotten.stamp && this.now() - this.forgotten.at <= this.seconds) {
      throw new Refused(401, "timestamp: as old as requests that are forgotten");
    }
    return false;
  }

  #turn(old) {
    Object.assign(this, { old, young: new Set(), oldest: this.youngest, youngest: 0, turned: this.now() });
  }
}

/** The request, if it is Tidegate's and fresh; else it throws `Refused`. `headers` has names in lower case, `body` is a Buffer. */
export function verify(secret, headers, body, maxAge = 60, now = Date.now() / 1000) {
  const stamp = headers["x-tidegate-timestamp"] ?? "";
  const age = /^[0-9]+$/.test(stamp) ? now - Number(stamp) : NaN;
  if (!(age <= maxAge && age >= -AHEAD_S_MAX)) throw new Refused(401, "timestamp");
  const expected = Buffer.from("v1=" + createHmac("sha256", secret).update(stamp + ".").update(body).digest("hex"));
  const given = Buffer.from(headers["x-tidegate-signature"] ?? "");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Refused(401, "signature");
  let request;
  try {
    request = JSON.parse(body);
  } catch (error) {
    throw new Refused(400, `body: ${error.message}`);
  }
  if (!/^[0-9a-f]{32}$/.test(request?.id) || !["connect", "event", "disconnect"].includes(request.kind)) {
    throw new Refused(400, "body: id or kind");
  }
  return request;
}

/** The one name of an object that has no other, if it stands for bytes or is a client's own name that only looks so. */
function markOf(names) {
  return names.length === 1 && /^\$+binary$/.test(names[0]) ? names[0] : undefined;
}

/** Arguments as handlers want them: marked texts become bytes, and what a client called so itself loses the `$` put before it. */
export function withBytes(value) {
  if (Array.isArray(value)) return value.map(withBytes);
  if (value === null || typeof value !== "object") return value;
  const names = Object.keys(value);
  const mark = markOf(names);
  if (mark === BINARY) return typeof value[mark] === "string" ? Buffer.from(value[mark], "base64") : value;
  if (mark) return { [mark.slice(1)]: withBytes(value[mark]) };
  return Object.fromEntries(names.map((name) => [name, withBytes(value[name])]));
}

/** Arguments as JSON can say them, with one more `$` before what only looks like bytes. Throws what JSON would throw later. */
export function withoutBytes(value) {
  if (typeof value === "bigint") throw new TypeError("a BigInt is no JSON: send it as text");
  if (value instanceof ArrayBuffer) return withoutBytes(Buffer.from(value));
  if (ArrayBuffer.isView(value)) {
    return { [BINARY]: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
  }
  if (Array.isArray(value)) return value.map(withoutBytes);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.toJSON === "function") return withoutBytes(value.toJSON());
  const names = Object.keys(value);
  const mark = markOf(names);
  if (mark) return { [`$${mark}`]: withoutBytes(value[mark]) };
  return Object.fromEntries(names.map((name) => [name, withoutBytes(value[name])]));
}

// === One request ===

const current = new AsyncLocalStorage();

/** Rooms by their names: Tidegate knows texts only, so 5 and "5" are one room. */
function roomNames(rooms) {
  return [...new Set([rooms].flat().map(roomName))];
}

function roomName(room) {
  if (typeof room === "string") return room;
  if ((typeof room === "object" && room !== null) || typeof room === "symbol" || typeof room === "function") {
    throw new NotBehindTidegate(`a room that is a ${typeof room}: name it by a text`);
  }
  return String(room);
}

/** The names of rooms to be in. */
function enterable(rooms) {
  const names = roomNames(rooms);
  if (names.includes("")) throw new NotBehindTidegate('a room without a name: join("") is refused');
  return names;
}

/** A message as the API takes it: a list that names nobody would be nobody, everybody is left out. */
function published({ to, except, ...message }) {
  const named = (targets) => Object.keys(targets).length > 0;
  return { ...message, ...(named(to) && { to }), ...(named(except) && { except }) };
}

/** The request that is being handled here; none in routes, in timers and after the answer. */
function turnNow() {
  const turn = current.getStore();
  return turn?.isOpen ? turn : undefined;
}

/**
 * One request of Tidegate, and what its handlers want done. Tidegate changes rooms before it sends messages, a handler may do it
 * the other way round. Each message therefore remembers the rooms of its moment, and names the client itself where the rooms of
 * the end would say otherwise.
 */
class Turn {
  constructor(request, socket) {
    Object.assign(this, { kind: request.kind, request, socket, isOpen: true, isMuted: false, isLeaving: false });
    this.before = new Set(socket.rooms);
    this.messages = [];
    Object.assign(this, { bytes: 0, ackBytes: 0 });
    this.changes = [];
  }

  emit(message) {
    if (this.isMuted) return;
    const bytes = Buffer.byteLength(JSON.stringify(message));
    this.#makeRoom(bytes, 1);
    this.messages.push([message, new Set(this.socket.rooms)]);
    this.bytes += bytes;
  }

  acknowledge(ack) {
    const bytes = Buffer.byteLength(JSON.stringify(ack));
    this.#makeRoom(bytes, 0);
    Object.assign(this, { ack, ackBytes: bytes });
    this.acked();
  }

  /** What the answer has no place for beside so much more goes before it; that of a connect goes after it. */
  #makeRoom(bytes, nMessages) {
    const { length } = this.messages;
    const isFull = length + nMessages > MESSAGES_MAX || this.bytes + this.ackBytes + bytes > MESSAGES_BYTES_MAX;
    if (isFull && length > 0 && this.kind !== "connect") this.flush();
  }

  /**
   * Sends the messages so far, for something that comes after them; the answer waits for it. A client that is being connected
   * cannot hear yet: what reaches it stays for the answer.
   */
  flush() {
    const { server } = this.socket.nsp;
    const earlier = this.kind === "connect" ? this.#split() : this.take(this.before);
    earlier.forEach((message) => server.publish(message));
    if (earlier.length > 0) this.changes.push(server.sent());
  }

  /** The messages so far, for a moment when Tidegate has the client in `rooms`. */
  take(rooms) {
    this.bytes = 0;
    return this.messages.splice(0).map(([message, then]) => this.#directed(message, then, rooms));
  }

  /** Keeps what the client itself hears of the messages so far, and gives those that are for others. */
  #split() {
    const { socket } = this;
    const isAlone = ({ to }) => to.sessions?.[0] === socket.id || (to.rooms?.length === 1 && to.rooms[0] === socket.id);
    const all = this.messages.splice(0);
    this.bytes = 0;
    for (const [message, then] of all.filter(([message, then]) => this.#reaches(message, then))) {
      const own = { ...message, to: { sessions: [socket.id] }, except: {} };
      this.messages.push([own, then]);
      this.bytes += Buffer.byteLength(JSON.stringify(own));
    }
    return all.map(([message]) => message).filter((message) => !isAlone(message));
  }

  /** Whether the client itself hears a message that was sent when it was in these rooms. */
  #reaches({ to, except, namespace }, rooms) {
    const { socket } = this;
    if (namespace !== socket.nsp.name) return false;
    if (except.sessions?.includes(socket.id) || except.rooms?.some((room) => rooms.has(room))) return false;
    if (to.sessions) return to.sessions.includes(socket.id);
    return !to.rooms || to.rooms.some((room) => rooms.has(room));
  }

  #directed(message, then, rooms) {
    const { socket } = this;
    const targets = message.to.rooms ?? [];
    if (targets.length === 0 || message.namespace !== socket.nsp.name || targets.includes(socket.id)) return message;
    const was = targets.some((room) => then.has(room));
    const willBe = targets.some((room) => rooms.has(room));
    const sessions = message.except.sessions ?? [];
    const skipsRooms = message.except.rooms?.some((room) => then.has(room)) ?? false;
    if (was && !willBe && !sessions.includes(socket.id) && !skipsRooms) {
      return { ...message, to: { ...message.to, sessions: [socket.id] } };
    }
    return willBe && !was ? { ...message, except: { ...message.except, sessions: [...sessions, socket.id] } } : message;
  }

  /** The body of the answer, without acknowledgement. */
  async answer(user) {
    const { socket, request } = this;
    const join = [...socket.rooms].filter((room) => !this.before.has(room));
    const leave = [...this.before].filter((room) => !socket.rooms.has(room));
    const emit = this.take(socket.rooms);
    const answer = {};
    if (join.length > 0) answer.join = join;
    if (leave.length > 0) answer.leave = leave;
    if (emit.length > 0) answer.emit = emit;
    if (user) this.#name(answer, await user(socket));
    const kept = socket.toKeep();
    if (JSON.stringify(kept) !== socket.tidegate.kept) {
      answer.data = kept;
      socket.tidegate.kept = JSON.stringify(kept);
    }
    if (this.isLeaving) answer.disconnect = true;
    return answer;
  }

  /** Says who the client is, if that has changed in any part: Tidegate tells the id, what stands beside it is kept with the session. */
  #name(answer, named) {
    const { socket, request } = this;
    const more = typeof named === "object" && named !== null ? named : undefined;
    const id = more ? more.id : (named ?? null);
    if (id === (request.user ?? null) && JSON.stringify(more) === JSON.stringify(socket.tidegate.user)) return;
    socket.tidegate.user = more;
    answer.user = named ?? null;
  }
}

// === A client ===

class Socket extends EventEmitter {
  #any = [];
  #uses = [];
  #flags = {};

  constructor(nsp, request) {
    super({ captureRejections: false });
    this.setMaxListeners(0);
    Object.assign(this, { nsp, id: request.session, connected: true, recovered: request.kind !== "connect", data: {} });
    this.rooms = new Set([this.id]);
    this.handshake = handshake(request);
    const { headers, url, query, address, secure } = this.handshake;
    const connection = { remoteAddress: address, encrypted: secure };
    this.request = { headers, url, _query: query, connection, socket: connection };
    /** What is between this process and Tidegate: its start, what it keeps, the user it was told. */
    this.tidegate = { boot: request.boot, kept: "", user: undefined };
    this.tidegate.kept = JSON.stringify(this.toKeep());
    this.refresh(request);
  }

  get server() {
    return this.nsp.server;
  }

  get disconnected() {
    return !this.connected;
  }

  /** What Tidegate keeps with the session. */
  toKeep() {
    const { user } = this.tidegate;
    const kept = { data: this.data, rooms: [...this.rooms].filter((room) => room !== this.id) };
    return user ? { ...kept, user } : kept;
  }

  /** Takes what Tidegate kept, if it is not what this process knows: another worker changed it, or this one is new. */
  refresh(request) {
    const kept = JSON.stringify(request.data ?? { data: {}, rooms: [] });
    if (kept === this.tidegate.kept || request.kind === "connect") return;
    const { data, rooms, user } = JSON.parse(kept);
    Object.assign(this, { data, rooms: new Set([this.id, ...rooms]) });
    Object.assign(this.tidegate, { kept, user });
  }

  emit(event, ...args) {
    return this.#own().emit(event, ...args);
  }

  send(...args) {
    this.emit("message", ...args);
    return this;
  }

  write(...args) {
    return this.send(...args);
  }

  emitWithAck(event, ...args) {
    return this.#own().emitWithAck(event, ...args);
  }

  to(rooms) {
    return this.broadcast.to(rooms);
  }

  in(rooms) {
    return this.broadcast.to(rooms);
  }

  except(rooms) {
    return this.broadcast.except(rooms);
  }

  get broadcast() {
    return new Broadcast(this.nsp, [], { sessions: [this.id] }, this.#takeFlags());
  }

  get local() {
    return this.broadcast;
  }

  get volatile() {
    this.#flags.volatile = true;
    return this;
  }

  compress() {
    return this;
  }

  timeout(ms) {
    this.#flags.timeout = ms;
    return this;
  }

  #own() {
    return new Broadcast(this.nsp, [this.id], {}, this.#takeFlags(), this);
  }

  /** They are for the next message. */
  #takeFlags() {
    const flags = this.#flags;
    this.#flags = {};
    return flags;
  }

  join(rooms) {
    const names = enterable(rooms);
    if (!this.connected) return;
    if (!this.#isMine()) return this.#change("join", names);
    names.forEach((room) => this.rooms.add(room));
  }

  leave(room) {
    const names = roomNames(room);
    if (!this.connected) return;
    if (!this.#isMine()) return this.#change("leave", names);
    names.forEach((name) => this.rooms.delete(name));
  }

  leaveAll() {
    return this.leave([...this.rooms].filter((room) => room !== this.id));
  }

  #change(verb, rooms) {
    if (rooms.length > 0) return this.nsp.server.change("sessions", this.id, verb, { rooms, namespace: this.nsp.name });
  }

  disconnect(close = false) {
    if (!this.connected) return this;
    const { server, name: namespace } = this.nsp;
    const turn = turnNow();
    // Where there is one namespace its end is that of the connection.
    const isMore = close && turn?.kind === "event" && server.hasMany;
    if (this.#isMine() && !isMore) turn.isLeaving = true;
    else server.change("sessions", this.id, "disconnect", { namespace, ...(close && { close: true }) });
    return this;
  }

  use(listener) {
    this.#uses.push(listener);
    return this;
  }

  onAny(listener) {
    this.#any = [...this.#any, listener];
    return this;
  }

  prependAny(listener) {
    this.#any = [listener, ...this.#any];
    return this;
  }

  offAny(listener) {
    this.#any = listener ? this.#any.filter((one) => one !== listener) : [];
    return this;
  }

  listenersAny() {
    return this.#any;
  }

  /** Calls the listeners of `event`; what they return, in their order. */
  tell(event, args) {
    return this.rawListeners(event).map((listener) => listener.apply(this, args));
  }

  /** Runs an event through the middleware to the listeners: the promises to wait for, and whether one may acknowledge later. */
  async take(event, args, ack) {
    const all = ack ? [...args, ack] : args;
    const packet = [event, ...all];
    this.#any.forEach((listener) => listener.apply(this, packet));
    try {
      await chain(this.#uses, packet);
    } catch (error) {
      this.tell("error", [error]);
      return { promises: [], isAckExpected: false };
    }
    const [name, ...given] = packet;
    const listeners = this.listeners(name);
    const returned = this.tell(name, given);
    const isPromise = (value) => typeof value?.then === "function";
    const isAckExpected = listeners.some((listener, n) => {
      // One that is done has had its time, unless it names the callback.
      return listener.length > args.length || (!isPromise(returned[n]) && takesMore(listener));
    });
    return { promises: returned.filter(isPromise), isAckExpected };
  }

  #isMine() {
    return turnNow()?.socket === this;
  }

  static {
    refuse(this.prototype, "socket");
  }
}

/** Whether a function can get at more arguments than its `length` says: by rest, by default values, by `arguments`, or unseen. */
function takesMore(listener) {
  const source = Function.prototype.toString.call(listener);
  const [head] = source.split(/=>|\)\s*\{/, 1);
  return head.includes("=") || /\.\.\.|\barguments\b|\[native code\]/.test(source);
}

function handshake(request) {
  const query = request.query ?? "";
  return {
    headers: request.headers ?? {},
    auth: request.auth ?? {},
    query: Object.fromEntries(new URLSearchParams(query)),
    address: request.address ?? "",
    url: `/socket.io/?${query}`,
    secure: request.headers?.["x-forwarded-proto"] === "https",
    xdomain: request.headers?.origin !== undefined,
    issued: Date.now(),
    time: `${new Date()}`,
  };
}

/** Runs middleware one after the other; rejects with what one gives to `next`. */
async function chain(middleware, subject) {
  for (const listener of [...middleware]) {
    await new Promise((resolve, reject) => {
      const returned = listener(subject, (error) => (error ? reject(error) : resolve()));
      if (typeof returned?.then === "function") returned.then(undefined, reject);
    });
  }
}

// === Many clients ===

class Broadcast {
  constructor(nsp, rooms, except, flags, only) {
    Object.assign(this, { nsp, rooms, excepted: except, flags, only });
  }

  to(rooms) {
    return new Broadcast(this.nsp, roomNames([...this.rooms, ...roomNames(rooms)]), this.excepted, this.flags);
  }

  in(rooms) {
    return this.to(rooms);
  }

  except(rooms) {
    const names = roomNames([...(this.excepted.rooms ?? []), ...roomNames(rooms)]);
    const excepted = names.length > 0 ? { ...this.excepted, rooms: names } : this.excepted;
    return new Broadcast(this.nsp, this.rooms, excepted, this.flags);
  }

  get volatile() {
    return new Broadcast(this.nsp, this.rooms, this.excepted, { ...this.flags, volatile: true });
  }

  get local() {
    return this;
  }

  compress() {
    return this;
  }

  timeout(ms) {
    return new Broadcast(this.nsp, this.rooms, this.excepted, { ...this.flags, timeout: ms });
  }

  emit(event, ...args) {
    const { server } = this.nsp;
    const callback = typeof args.at(-1) === "function" ? args.pop() : undefined;
    const message = this.#message(event, args);
    if (callback) {
      server.keep(this.#ask(message).then((answers) => this.#tell(callback, answers)));
      return true;
    }
    const turn = turnNow();
    if (turn?.isMuted) return true;
    if (turn && turn.kind !== "disconnect") turn.emit(message);
    else server.publish(message);
    return true;
  }

  async emitWithAck(event, ...args) {
    const answers = await this.#ask(this.#message(event, args));
    if (this.only) {
      if (!answers.list.length) throw new Error("operation has timed out");
      return answers.list[0][0];
    }
    if (answers.timedOut) throw Object.assign(new Error("operation has timed out"), { responses: answers.list.map(([one]) => one) });
    return answers.list.map(([one]) => one);
  }

  socketsJoin(rooms) {
    return this.#changeAll("join", { rooms: enterable(rooms) });
  }

  socketsLeave(rooms) {
    return this.#changeAll("leave", { rooms: roomNames(rooms) });
  }

  disconnectSockets(close = false) {
    return this.#changeAll("disconnect", close ? { close: true } : {});
  }

  async allSockets() {
    return new Set((await this.fetchSockets()).map(({ id }) => id));
  }

  /** Those of the rooms, as Tidegate knows them. */
  async fetchSockets() {
    if (this.rooms.length === 0 || Object.keys(this.excepted).length > 0) {
      throw new NotBehindTidegate("fetchSockets(): name rooms, without exceptions");
    }
    const found = new Map();
    for (const room of this.rooms) {
      for await (const session of this.nsp.server.sessions(room, this.nsp.name)) {
        found.set(session.id, new RemoteSocket(this.nsp, session));
      }
    }
    return [...found.values()];
  }

  #changeAll(verb, body) {
    if (this.rooms.length === 0 || Object.keys(this.excepted).length > 0) {
      throw new NotBehindTidegate(`${verb} of many sockets: name rooms, without exceptions`);
    }
    const { server, name } = this.nsp;
    if (body.rooms?.length === 0) return;
    this.rooms.forEach((room) => server.change("rooms", room, verb, { ...body, namespace: name }));
  }

  #message(event, args) {
    if (RESERVED_EVENTS.has(event) || event === "") throw new Error(`"${event}" is a reserved event name`);
    const nTargets = this.rooms.length + (this.excepted.rooms?.length ?? 0) + (this.excepted.sessions?.length ?? 0);
    // One more is for the client of the handler.
    if (nTargets >= TARGETS_MAX) throw new NotBehindTidegate(`a message to ${nTargets} rooms: put their members into one`);
    const to = this.rooms.length > 0 ? { rooms: this.rooms } : {};
    const message = { event: String(event), args: withoutBytes(args), to, except: this.excepted, namespace: this.nsp.name };
    return this.flags.volatile ? { ...message, volatile: true } : message;
  }

  async #ask(message) {
    const turn = turnNow();
    if (turn?.kind === "connect" && message.to.rooms?.includes(turn.socket.id)) {
      throw new NotBehindTidegate("a question to a client that is being connected: ask in its first event");
    }
    const ms = Math.min(Math.max(1, this.flags.timeout ?? ACK_MS_MAX), ACK_MS_MAX);
    turn?.flush();
    const answer = await this.nsp.server.ask({ ...published(message), ack_timeout_ms: ms });
    return { list: answer.answers.map(({ args }) => withBytes(args)), timedOut: answer.timed_out };
  }

  #tell(callback, { list, timedOut }) {
    const hasTimeout = this.flags.timeout !== undefined;
    const late = timedOut || (this.only && list.length === 0) ? new Error("operation has timed out") : null;
    if (!this.only) return callback(late, list.map(([one]) => one));
    if (hasTimeout) return late ? callback(late) : callback(null, ...list[0]);
    if (!late) callback(...list[0]);
  }
}

/** A client as Tidegate lists it: what can be done with it without having met it. */
class RemoteSocket {
  constructor(nsp, session) {
    Object.assign(this, { nsp, id: session.id, data: session.data?.data ?? {}, rooms: new Set([session.id, ...session.rooms]) });
  }

  emit(event, ...args) {
    return this.#own({}).emit(event, ...args);
  }

  timeout(ms) {
    return this.#own({ timeout: ms });
  }

  #own(flags) {
    return new Broadcast(this.nsp, [this.id], {}, flags, this);
  }

  join(rooms) {
    return this.#change("join", { rooms: enterable(rooms) });
  }

  leave(room) {
    return this.#change("leave", { rooms: roomNames(room) });
  }

  disconnect(close = false) {
    this.#change("disconnect", close ? { close: true } : {});
    return this;
  }

  #change(verb, body) {
    if (body.rooms?.length === 0) return;
    return this.nsp.server.change("sessions", this.id, verb, { ...body, namespace: this.nsp.name });
  }

  static {
    refuse(this.prototype, "remote socket");
  }
}

class Namespace extends EventEmitter {
  constructor(server, name) {
    super();
    Object.assign(this, { server, name, middleware: [], sockets: new Map() });
  }

  use(listener) {
    this.middleware.push(listener);
    return this;
  }

  tell(event, args) {
    return this.rawListeners(event).map((listener) => listener.apply(this, args));
  }

  emit(event, ...args) {
    return this.#all().emit(event, ...args);
  }

  send(...args) {
    this.emit("message", ...args);
    return this;
  }

  write(...args) {
    return this.send(...args);
  }

  #all() {
    return new Broadcast(this, [], {}, {});
  }

  static {
    const operations = ["to", "in", "except", "compress", "timeout", "emitWithAck", "socketsJoin", "socketsLeave"];
    for (const name of [...operations, "disconnectSockets", "fetchSockets", "allSockets"]) {
      this.prototype[name] = function (...args) {
        return this.#all()[name](...args);
      };
    }
    for (const name of ["volatile", "local"]) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#all()[name];
        },
      });
    }
    refuse(this.prototype, "namespace");
  }
}

// === The server's surface ===

/**
 * socket.io's server for handlers and senders, with Tidegate at the clients.
 *
 * `secret`: what signs the hook (`app.secret_env`). `url`, `apiKey`: Tidegate and a key for it.
 * `user`: a function from a socket to Tidegate's user (a name, `{id, roles, tenant, claims, expires_at_ms}` or null), or to a promise
 * of it. It is asked after each connect and event, and any change is told: a later `expires_at_ms` renews the session.
 * `path`: of the hook. `maxAge`: seconds that a signature counts. `seen`: see `Seen`. `nodes`: how many Tidegates ask this
 * application; with one, a restart of it ends the sessions of before. `ackWaitMs`: how long an event waits for an acknowledgement
 * that nothing else says will not come. `endWaitMs`: how long listeners of a disconnect may take.
 */
export class TidegateServer {
  #namespaces = new Map();
  #waiting = [];
  #waitingBytes = 0;
  #sending = Promise.resolve();
  #isSending = false;
  #kept = new Set();
  #boots = new Set();
  #ended = new Set();
  #ending = new Set();
  #path;

  /** With a server of `node:http`, a port to listen on, or nothing (`attach`, or `hook` in a router). */
  constructor(httpServer, options) {
    if (options === undefined && typeof httpServer === "object") [httpServer, options] = [undefined, httpServer];
    const { secret, url, apiKey, user, path = "/socket.io/", maxAge = 60, seen, nodes = 1, ...waits } = options;
    const { ackWaitMs = 4_000, endWaitMs = 60_000, ...unknown } = waits;
    for (const name of Object.keys(unknown)) {
      throw new NotBehindTidegate(`option ${name}: ${OPTIONS[name] ?? "a setting of Tidegate takes its place, or nothing does"}`);
    }
    if (Buffer.byteLength(secret) < SECRET_BYTES_MIN) {
      throw new Error(`the secret has ${Buffer.byteLength(secret)} bytes, at least ${SECRET_BYTES_MIN}`);
    }
    if (seen && !["first", "has"].every((name) => typeof seen[name] === "function")) {
      throw new Error("seen has not both first(id, timestamp) and has(id, timestamp)");
    }
    // A signature may be ahead of this clock, and counts for maxAge after it.
    const known = seen ?? new Seen(maxAge + AHEAD_S_MAX);
    Object.assign(this, { secret, url, apiKey, user, maxAge, nodes, ackWaitMs, endWaitMs, seen: known });
    this.#path = path;
    /** Requests that were refused, by why; what Tidegate or a client never got. */
    this.refused = {};
    this.lost = { messages: 0, acknowledgements: 0 };
    this.sockets = this.of("/");
    this.onerror = (what, error) => console.error(`tidegate: ${what}:`, error);
    if (httpServer !== undefined) this.attach(httpServer);
  }

  of(name, listener) {
    if (typeof name !== "string") throw new NotBehindTidegate("namespaces by pattern: name each in app.namespaces and here");
    const full = name.startsWith("/") ? name : `/${name}`;
    let namespace = this.#namespaces.get(full);
    if (!namespace) {
      namespace = new Namespace(this, full);
      this.#namespaces.set(full, namespace);
      this.sockets?.tell("new_namespace", [namespace]);
    }
    if (listener) namespace.on("connect", listener);
    return namespace;
  }

  /** Whether there is more than one namespace. */
  get hasMany() {
    return this.#namespaces.size > 1;
  }

  /** Answers the hook at its path, before whatever else listens to `httpServer`; a number is a port to listen on. */
  attach(httpServer) {
    if (typeof httpServer !== "object") return this.attach(createServer((req, res) => res.writeHead(404).end()).listen(httpServer));
    this.httpServer = httpServer;
    const others = httpServer.listeners("request").slice();
    httpServer.removeAllListeners("request");
    httpServer.on("request", (req, res) => {
      const [path] = req.url.split("?");
      if (path === this.#path || `${path}/` === this.#path) return void this.hook(req, res);
      others.forEach((listener) => listener.call(httpServer, req, res));
    });
    return this;
  }

  listen(httpServer) {
    return this.attach(httpServer);
  }

  path(path) {
    if (path === undefined) return this.#path;
    this.#path = path.endsWith("/") ? path : `${path}/`;
    return this;
  }

  serveClient(isServed) {
    if (isServed) throw new NotBehindTidegate(`io.serveClient: ${OPTIONS.serveClient}`);
    return isServed === undefined ? false : this;
  }

  /** One request of Tidegate, for a server or a router of any kind. */
  hook = async (req, res) => {
    let status = 200;
    let text;
    try {
      if (req.method !== "POST") throw new Refused(405, "Socket.IO clients connect to Tidegate; this path answers its hook");
      text = JSON.stringify(await this.answer(req.headers, await whole(req)));
    } catch (error) {
      const isRefused = error instanceof Refused;
      const why = isRefused ? error.message : "failed";
      status = isRefused ? error.status : 500;
      text = JSON.stringify({ error: why });
      this.refused[why] = (this.refused[why] ?? 0) + 1;
      this.onerror("request refused", isRefused ? error.message : error);
    }
    res.writeHead(status, { "content-type": "application/json" }).end(text);
  };

  /** The answer to one request; rejects with `Refused` if it is not to be acted on. */
  async answer(headers, body) {
    const request = verify(this.secret, headers, body, this.maxAge);
    const stamp = Number(headers["x-tidegate-timestamp"]);
    if (request.kind === "disconnect") return this.#onDisconnect(request, stamp);
    if (!(await this.seen.first(request.id, stamp))) throw new Refused(409, "replayed");
    const namespace = this.#namespaces.get(request.namespace);
    if (!namespace) {
      return request.kind === "connect" ? { disconnect: { message: "Invalid namespace" } } : {};
    }
    return request.kind === "connect" ? this.#onConnect(namespace, request) : this.#onEvent(namespace, request);
  }

  async close(done) {
    await Promise.allSettled(this.#kept);
    await this.#sending;
    const error = await new Promise((resolve) => (this.httpServer?.listening ? this.httpServer.close(resolve) : resolve()));
    done?.(error);
  }

  // --- Tidegate's API ---

  /** Sends a message in order with those before it; many that wait go as one request. */
  publish(message) {
    const text = JSON.stringify({ ...published(message), id: randomUUID() });
    return this.#wait({ text, bytes: Buffer.byteLength(text) });
  }

  /** Resolves when what was sent before is with Tidegate. */
  sent() {
    if (!this.#isSending) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wait({ act: async () => resolve(), bytes: 0 });
    });
  }

  /** Asks one or many clients, after what was sent before. */
  async ask(message) {
    await this.sent();
    return this.#post("/api/publish", message);
  }

  /**
   * Changes rooms of others, or ends them, after what was sent before. A handler's own answer waits for it, so that what it
   * emits next finds the rooms changed; the promise is for those who want to know when.
   */
  change(what, name, verb, body) {
    const turn = turnNow();
    if (turn?.isMuted) return Promise.resolve();
    turn?.flush();
    const path = `/api/${what}/${encodeURIComponent(name)}/${verb}`;
    const changed = new Promise((resolve, reject) => {
      this.#wait({ act: () => this.#post(path, body).then(resolve, reject), bytes: 0 });
    });
    turn?.changes.push(this.keep(changed));
    if (!turn) this.keep(changed);
    return changed;
  }

  /** The sessions of a room, page by page. */
  async *sessions(room, namespace) {
    await this.sent();
    for (let after = ""; after !== null; ) {
      const asked = new URLSearchParams({ namespace, limit: "1000", ...(after && { after }) });
      const page = await this.#call("GET", `/api/rooms/${encodeURIComponent(room)}/sessions?${asked}`);
      yield* page.items;
      after = page.next;
    }
  }

  /** Remembers a promise that nobody waits for, so that its failure is told and `close` waits for it. */
  keep(promise) {
    const kept = promise.catch((error) => this.onerror("failed", error)).finally(() => this.#kept.delete(kept));
    this.#kept.add(kept);
    return kept;
  }

  /** Puts a message, or something else to do, behind those that wait. */
  #wait(step) {
    const { length } = this.#waiting;
    if (length >= WAITING_MAX || this.#waitingBytes + step.bytes > WAITING_BYTES_MAX) {
      throw new TidegateUnavailable(`${length} messages of ${this.#waitingBytes} bytes wait for Tidegate`);
    }
    this.#waiting.push(step);
    this.#waitingBytes += step.bytes;
    if (!this.#isSending) {
      this.#isSending = true;
      this.#sending = current.exit(() => this.#send());
    }
    return this.#sending;
  }

  async #send() {
    await soon();
    while (this.#waiting.length > 0) {
      const steps = this.#next();
      if (steps[0].act) await steps[0].act();
      else await this.#publishAll(steps.map(({ text }) => text));
    }
    this.#isSending = false;
  }

  /** What is done next in one request: something else alone, or as many messages as there is place for. */
  #next() {
    let [n, bytes] = [0, 0];
    for (const step of this.#waiting) {
      if (n > 0 && (step.act || n === MESSAGES_MAX || bytes + step.bytes > MESSAGES_BYTES_MAX)) break;
      n += 1;
      bytes += step.bytes;
      if (step.act) break;
    }
    this.#waitingBytes -= bytes;
    return this.#waiting.splice(0, n);
  }

  /** What was refused for now is sent again, and comes after what was not; the ids make a second time harmless. */
  async #publishAll(texts) {
    let left = texts;
    const publishLeft = async () => {
      const answer = await this.#once("POST", "/api/publish", `{"messages":[${left.join()}]}`);
      const refused = answer.results.map((result, n) => ({ ...result, text: left[n] })).filter(({ ok }) => !ok);
      left = refused.filter(isForNow).map(({ text }) => text);
      const final = refused.filter((result) => !isForNow(result));
      if (final.length > 0) this.#lose(final.length, new TidegateUnavailable(JSON.stringify(final[0].error)));
      if (left.length > 0) throw new TidegateUnavailable(JSON.stringify(refused.find(isForNow).error), answer.retryAfterMs);
    };
    await this.#patiently(publishLeft).catch((error) => this.#lose(left.length, error));
  }

  #lose(n, error) {
    this.lost.messages += n;
    this.onerror(`${n} messages lost`, error);
  }

  #post(path, body) {
    return this.#call("POST", path, JSON.stringify(body), { isSafe: body.ack_timeout_ms === undefined });
  }

  #call(method, path, body, options) {
    return this.#patiently(() => this.#once(method, path, body, options));
  }

  /** Does something until Tidegate has a place for it, within bounds. */
  async #patiently(act) {
    const until = performance.now() + PATIENCE_MS_MAX;
    for (let n = 1; ; n += 1) {
      try {
        return await act();
      } catch (error) {
        const { retryAfterMs: pause } = error;
        if (pause === undefined || n === ATTEMPTS_MAX || performance.now() + pause > until) throw error;
        await after(pause);
      }
    }
  }

  async #once(method, path, body, { isSafe = true } = {}) {
    const init = {
      method,
      headers: { "content-type": "application/json", "x-api-key": this.apiKey },
      body,
      signal: AbortSignal.timeout(ACK_MS_MAX + 5_000),
    };
    // A kept connection that the other side has closed meanwhile; ids make a second time harmless.
    const response = await fetch(this.url + path, init).catch((error) => {
      if (!isSafe) throw new TidegateUnavailable(`${path}: ${error.cause ?? error}`);
      return fetch(this.url + path, init).catch((second) => {
        throw new TidegateUnavailable(`${path}: ${second.cause ?? second}`);
      });
    });
    const answer = await response.json().catch(() => ({ error: "no JSON" }));
    const retryAfterMs = 1_000 * Number(response.headers.get("retry-after") ?? 1);
    if (!response.ok || !answer.ok) {
      const why = `${path}: ${response.status} ${JSON.stringify(answer.error)}`;
      throw new TidegateUnavailable(why, isForNow(answer) ? retryAfterMs : undefined);
    }
    return { ...answer, retryAfterMs };
  }

  // --- The hook ---

  async #onConnect(namespace, request) {
    this.#meet(request.boot);
    const socket = new Socket(namespace, request);
    const turn = new Turn(request, socket);
    return current.run(turn, async () => {
      try {
        await chain(namespace.middleware, socket);
      } catch (error) {
        turn.isOpen = false;
        const message = error?.message ?? "refused";
        return { disconnect: error?.data === undefined ? { message } : { message, data: error.data } };
      }
      namespace.sockets.set(socket.id, socket);
      await this.#connection(namespace, socket);
      const answer = await this.#finish(turn);
      const rest = tooMuch(answer.emit ?? []);
      if (rest.length > 0) this.keep(this.#sendLater(socket, rest));
      return answer;
    });
  }

  async #onEvent(namespace, request) {
    this.#meet(request.boot);
    const socket = await this.#find(namespace, request);
    const turn = new Turn(request, socket);
    return current.run(turn, async () => {
      await this.#handled(turn, request);
      const answer = await this.#finish(turn);
      return turn.ack ? { ...answer, ack: turn.ack } : answer;
    });
  }

  /** Runs an event's handlers until there is nothing more to wait for; what they acknowledged with is in the turn. */
  async #handled(turn, request) {
    const { socket } = turn;
    const until = performance.now() + this.ackWaitMs;
    const failed = (error) => this.onerror(`handler of "${request.event}" failed`, error);
    try {
      const acked = new Promise((resolve) => (turn.acked = resolve));
      const ack = request.wants_ack ? this.#acknowledge(turn, request.event) : undefined;
      const taken = await socket.take(request.event, withBytes(request.args), ack);
      // What was emitted before a failure is sent.
      const settled = Promise.all(taken.promises).catch(failed);
      if (!ack) return void (await settled);
      await Promise.race([acked, settled]);
      if (!turn.ack && taken.isAckExpected) await within(acked, until - performance.now());
    } catch (error) {
      failed(error);
    }
    // What the handler does after it has acknowledged, without waiting for anything.
    await soon();
  }

  /** What acknowledges an event, once. */
  #acknowledge(turn, event) {
    return (...args) => {
      if (turn.ack) return;
      const ack = withoutBytes(args);
      if (!turn.isOpen) {
        this.lost.acknowledgements += 1;
        this.onerror(`acknowledgement of "${event}" lost`, new Error("it came after the answer: raise ackWaitMs and app.timeout"));
        return;
      }
      turn.acknowledge(ack);
    };
  }

  /**
   * Told until it is answered, so it is answered when its handlers have ended, and known as done from then on. A process that is
   * killed before hears it again, and with one `seen` for several workers two may do the same: at least once.
   */
  async #onDisconnect(request, stamp) {
    if (this.#ending.has(request.id)) throw new Refused(425, "its handlers run");
    this.#ending.add(request.id);
    try {
      if (await this.seen.has(request.id, stamp)) return {};
      const namespace = this.#namespaces.get(request.namespace);
      const isOver = this.#ended.has(request.boot) && !namespace?.sockets.has(request.session);
      if (namespace && !isOver && !(await within(this.#leave(namespace, request), this.endWaitMs))) {
        this.onerror("disconnect", new Error(`its handlers have not ended within ${this.endWaitMs} ms: not waited for any longer`));
      }
      await this.seen.first(request.id, Date.now() / 1000);
      return {};
    } finally {
      this.#ending.delete(request.id);
    }
  }

  async #leave(namespace, request) {
    const socket = await this.#find(namespace, request);
    const turn = new Turn(request, socket);
    await current.run(turn, () => this.#end(socket, REASONS[request.reason] ?? request.reason));
    turn.isOpen = false;
    await this.sent();
  }

  /** Sends what the answer to a connect had no place for, once the client is there. */
  async #sendLater(socket, messages) {
    for (let waited = 0; socket.connected; waited += ENTRY_POLL_MS) {
      const isThere = await this.#call("GET", `/api/sessions/${encodeURIComponent(socket.id)}`).then(() => true, () => false);
      if (isThere) return void messages.forEach((message) => this.publish(message));
      if (waited >= ENTRY_MS_MAX) break;
      await after(ENTRY_POLL_MS);
    }
    throw new TidegateUnavailable(`${messages.length} messages lost: ${socket.id} is not there`);
  }

  async #finish(turn) {
    await Promise.all(turn.changes);
    const answer = await turn.answer(this.user);
    turn.isOpen = false;
    return answer;
  }

  async #end(socket, reason) {
    const tell = async (event) => Promise.all(socket.tell(event, [reason]));
    try {
      await tell("disconnecting");
      socket.nsp.sockets.delete(socket.id);
      socket.connected = false;
      socket.rooms.clear();
      await tell("disconnect");
    } catch (error) {
      this.onerror('handler of "disconnect" failed', error);
    }
  }

  /** The client of a request, made anew where this process has not met it. */
  async #find(namespace, request) {
    const known = namespace.sockets.get(request.session);
    if (known) {
      known.refresh(request);
      return known;
    }
    const socket = new Socket(namespace, request);
    namespace.sockets.set(socket.id, socket);
    const turn = new Turn(request, socket);
    turn.isMuted = true;
    await current.run(turn, () => this.#connection(namespace, socket));
    turn.isOpen = false;
    // Its listeners are there; what it is stands in the request.
    socket.tidegate.kept = "";
    socket.refresh(request);
    return socket;
  }

  async #connection(namespace, socket) {
    const names = ["connect", "connection"];
    try {
      await Promise.all(names.flatMap((name) => namespace.tell(name, [socket])));
    } catch (error) {
      this.onerror('handler of "connection" failed', error);
    }
  }

  /** With one Tidegate, the sessions of its earlier starts are over, though a killed one could not say so. */
  #meet(boot) {
    if (this.#boots.has(boot)) return;
    this.#boots.add(boot);
    while (this.#boots.size > this.nodes) {
      const [oldest] = this.#boots;
      this.#boots.delete(oldest);
      this.#ended.add(oldest);
      if (this.#ended.size > BOOTS_MAX) this.#ended.delete(this.#ended.values().next().value);
      for (const namespace of this.#namespaces.values()) {
        const over = [...namespace.sockets.values()].filter((socket) => socket.tidegate.boot === oldest);
        over.forEach((socket) => this.keep(this.#end(socket, "transport close")));
      }
    }
  }

  static {
    const emitter = Object.getOwnPropertyNames(EventEmitter.prototype).filter((name) => name !== "constructor" && !name.startsWith("_"));
    const operations = ["use", "to", "in", "except", "compress", "timeout", "emitWithAck", "socketsJoin", "socketsLeave"];
    for (const name of [...emitter, ...operations, "disconnectSockets", "fetchSockets", "allSockets", "send", "write"]) {
      this.prototype[name] = function (...args) {
        const returned = this.sockets[name](...args);
        return returned === this.sockets ? this : returned;
      };
    }
    for (const name of ["volatile", "local"]) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.sockets[name];
        },
      });
    }
    refuse(this.prototype, "io");
  }
}

/** Whether something was refused only because there was no place for it. */
function isForNow({ error }) {
  return error?.code === "overloaded" || error?.code === "rate_limited";
}

/** Takes the messages off a list that an answer has no place for, and returns them. */
function tooMuch(messages) {
  let bytes = 0;
  const end = messages.findIndex((message, n) => {
    bytes += Buffer.byteLength(JSON.stringify(message));
    return n > 0 && (n >= MESSAGES_MAX || bytes > MESSAGES_BYTES_MAX);
  });
  return end < 0 ? [] : messages.splice(end);
}

/** Whether a promise is settled in time; it rejects as that does. */
async function within(promise, ms) {
  const timer = new AbortController();
  const late = after(ms, false, { signal: timer.signal }).catch(() => false);
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    timer.abort();
  }
}

async function whole(req) {
  if (req.readableEnded) throw new Error("the body was read before: put the hook before express.json() and the like");
  const parts = [];
  let bytes = 0;
  for await (const part of req) {
    bytes += part.length;
    if (bytes > BODY_BYTES_MAX) throw new Refused(413, `body: more than ${BODY_BYTES_MAX} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

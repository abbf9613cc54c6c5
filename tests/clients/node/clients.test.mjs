// The standard `socket.io-client` from npm, used as programs use it, over real sockets.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { io } from "socket.io-client";
import { unbatch } from "./batch.mjs";
import { Proxy } from "./lib/proxy.mjs";
import { start } from "./lib/server.mjs";
import { Collected, once, within } from "./lib/wait.mjs";

const ACK_MS = 5_000;

let server;
before(async () => {
  server = await start("TIDEGATE_REALCLIENTS");
});
after(async () => {
  server?.assertAlive();
  await server?.stop();
});

/** A room of its own for each test. */
let nRooms = 0;
const newRoom = () => `room-${(nRooms += 1)}`;

const clients = new Set();

/** A client that the end of its test closes. */
function make(path = "", options = {}) {
  const { url = server.url, ...rest } = options;
  const client = io(`${url}${path}`, {
    forceNew: true,
    transports: ["websocket"],
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    randomizationFactor: 0,
    ...rest,
  });
  clients.add(client);
  return client;
}

async function connect(path, options) {
  const client = make(path, options);
  await once(client, "connect");
  return client;
}

/** `it`, and every client of the test closed at its end. */
function test(name, body) {
  it(name, { timeout: 30_000 }, async (t) => {
    try {
      await body(t);
    } finally {
      clients.forEach((client) => client.disconnect());
      clients.clear();
    }
  });
}

const ask = (client, event, ...args) => client.timeout(ACK_MS).emitWithAck(event, ...args);

async function join(client, room) {
  const answer = await ask(client, "join", room);
  assert.equal(answer.ok, true, JSON.stringify(answer));
}

/** A round trip in a namespace that may grant nothing: any answer of the usual shape will do. */
async function roundTrip(client) {
  const answer = await ask(client, "join", newRoom());
  assert.equal(typeof answer.ok, "boolean", JSON.stringify(answer));
}

const numbers = (n, from = 0) => Array.from({ length: n }, (_, i) => from + i);

const transports = {
  "polling only": { transports: ["polling"] },
  "WebSocket only": { transports: ["websocket"] },
  "polling, then upgraded": { transports: ["polling", "websocket"] },
};

for (const [how, options] of Object.entries(transports)) {
  describe(how, () => {
    test("connects with a public id", async () => {
      const client = await connect("", options);
      assert.match(client.id, /^[\w-]{16,}$/);
      assert.notEqual(client.id, client.io.engine.id);
      assert.equal(client.recovered, false);
    });

    test("gets its arguments back, as event and as ack", async () => {
      const client = await connect("", options);
      const args = [1, "two", { three: [true, null] }, "价格 🚀", 1.5];
      const back = once(client, "echo-back");
      const [first] = [await ask(client, "echo", ...args)];
      assert.equal(first, 1);
      assert.deepEqual((await back).slice(0, args.length), args);
    });

    test("sends and receives binary", async () => {
      const client = await connect("", options);
      const data = Buffer.from(numbers(256));
      const echoed = once(client, "echo-back");
      client.emit("echo", { deep: data }, data);
      const [object, plain] = await echoed;
      assert.deepEqual([Buffer.from(object.deep), Buffer.from(plain)], [data, data]);
      const bin = once(client, "bin");
      client.emit("binary-me");
      assert.ok(Buffer.from((await bin)[0]).length > 0);
    });

    test("is asked and answers", async () => {
      const client = await connect("", options);
      client.on("question", (...args) => args.at(-1)("yes"));
      const answered = once(client, "answered");
      client.emit("ask-me");
      assert.equal((await answered)[0], "yes");
    });

    test("answers every question of many", async () => {
      for (let i = 0; i < 10; i += 1) {
        const client = await connect("", options);
        client.on("question", (...args) => args.at(-1)(i));
        const answers = new Collected(client, "answered");
        for (let n = 1; n <= 5; n += 1) {
          client.emit("ask-me");
          // Well below the server's own patience: an answer that is only found when it gives up does not count.
          await answers.count(n, 4_000);
        }
        assert.deepEqual(answers.items, Array(5).fill(i));
        client.disconnect();
      }
    });

    test("receives a feed in order, without a gap or a duplicate", async () => {
      const [reader, writer] = [await connect("", options), await connect()];
      const room = newRoom();
      const ticks = new Collected(reader, "m", ({ i }) => i);
      await join(reader, room);
      await ask(writer, "tick", { room, n: 300 });
      assert.deepEqual(await ticks.count(300), numbers(300));
    });

    test("receives what another client publishes, with its data as it was", async () => {
      const [reader, writer] = [await connect("", options), await connect()];
      const room = newRoom();
      await join(reader, room);
      const said = once(reader, "said");
      const data = { text: "你好", n: 1 };
      const answer = await ask(writer, "publish", { room, event: "said", data });
      assert.equal(answer.ok, true);
      assert.deepEqual((await said)[0], data);
    });

    test("sends long messages", async () => {
      const client = await connect("", options);
      const text = "价".repeat(100_000);
      assert.equal(await ask(client, "echo", text), text);
    });

    test("keeps its own order", async () => {
      const client = await connect("", options);
      const back = new Collected(client, "echo-back");
      numbers(200).forEach((i) => client.emit("echo", i));
      assert.deepEqual(await back.count(200), numbers(200));
    });
  });
}

describe("upgrade", () => {
  const options = transports["polling, then upgraded"];

  test("ends on WebSocket", async () => {
    const client = make("", options);
    await once(client, "connect");
    if (client.io.engine.transport.name !== "websocket") {
      await once(client.io.engine, "upgrade");
    }
    assert.equal(client.io.engine.transport.name, "websocket");
    assert.equal(await ask(client, "echo", "after"), "after");
  });

  test("loses and repeats nothing under way", async () => {
    const [client, writer] = [make("", options), await connect()];
    const room = newRoom();
    const back = new Collected(client, "echo-back");
    const ticks = new Collected(client, "m", ({ i }) => i);
    await once(client, "connect");
    await join(client, room);
    const ticked = ask(writer, "tick", { room, n: 200 });
    numbers(500).forEach((i) => client.emit("echo", i));
    assert.deepEqual(await back.count(500), numbers(500));
    await ticked;
    assert.deepEqual(await ticks.count(200), numbers(200));
  });
});

describe("rooms", () => {
  test("many at once, and nothing after leaving", async () => {
    const [reader, writer] = [await connect(), await connect()];
    const rooms = numbers(200).map(newRoom);
    const ticks = new Collected(reader, "said");
    await Promise.all(rooms.map((room) => join(reader, room)));
    const publish = (room) => ask(writer, "publish", { room, event: "said", data: { room } });
    for (const room of rooms) {
      await publish(room);
    }
    assert.deepEqual((await ticks.count(200)).map(({ room }) => room), rooms);
    const [left, kept] = [rooms.slice(0, 100), rooms.slice(100)];
    for (const room of left) {
      assert.equal((await ask(reader, "leave", room)).ok, true);
    }
    for (const room of rooms) {
      await publish(room);
    }
    assert.deepEqual((await ticks.count(300)).slice(200).map(({ room }) => room), kept);
    assert.equal(ticks.items.length, 300);
  });

  test("a list is joined and left at once", async () => {
    const [reader, writer] = [await connect(), await connect()];
    const rooms = [newRoom(), newRoom(), newRoom()];
    await join(reader, rooms);
    const said = new Collected(reader, "said");
    for (const room of rooms) {
      await ask(writer, "publish", { room, event: "said", data: room });
    }
    assert.deepEqual(await said.count(3), rooms);
    assert.equal((await ask(reader, "leave", rooms.slice(1))).ok, true);
    for (const room of [...rooms].reverse()) {
      await ask(writer, "publish", { room, event: "said", data: room });
    }
    assert.equal((await said.count(4)).at(-1), rooms[0]);
    await ask(reader, "echo", "a round trip later");
    assert.equal(said.items.length, 4);
  });

  test("fifty readers of one room all see everything", async () => {
    const room = newRoom();
    const readers = await Promise.all(numbers(50).map(() => connect()));
    const seen = readers.map((reader) => new Collected(reader, "m", ({ i }) => i));
    await Promise.all(readers.map((reader) => join(reader, room)));
    await ask(readers[0], "tick", { room, n: 20 });
    for (const ticks of seen) {
      assert.deepEqual(await ticks.count(20), numbers(20));
    }
  });
});

describe("namespaces", () => {
  test("share one connection", async () => {
    const main = await connect();
    const auth = main.io.socket("/auth", { auth: { token: "let-me-in" } });
    clients.add(auth);
    await once(auth, "connect");
    assert.equal(auth.io.engine.id, main.io.engine.id);
    assert.notEqual(auth.id, main.id);
    assert.equal(await ask(main, "echo", "main"), "main");
    await roundTrip(auth);
    auth.disconnect();
    assert.equal(await ask(main, "echo", "still here"), "still here");
  });

  test("keep their rooms apart", async () => {
    const [main, auth] = [await connect(), await connect("/auth", { auth: { token: "let-me-in" } })];
    const room = newRoom();
    const [ours, theirs] = [new Collected(main, "m"), new Collected(auth, "m")];
    await join(main, room);
    // Whether it may or not, the name means another room there.
    await ask(auth, "join", room);
    await ask(main, "tick", { room, n: 3 });
    await ours.count(3);
    await roundTrip(auth);
    assert.equal(theirs.items.length, 0);
  });

  test("that do not exist are refused", async () => {
    const client = make("/nowhere");
    const [error] = await once(client, "connect_error");
    assert.equal(error.message, "Invalid namespace");
  });
});

describe("auth", () => {
  test("lets in who has the token", async () => {
    const client = await connect("/auth", { auth: { token: "let-me-in" } });
    await roundTrip(client);
  });

  for (const [what, auth] of Object.entries({ "a wrong token": { token: "guess" }, "no token": {} })) {
    test(`refuses ${what}, and the client stays away`, async () => {
      const client = make("/auth", { auth });
      const [error] = await once(client, "connect_error");
      assert.equal(error.message, "unauthenticated");
      assert.equal(client.connected, false);
      assert.equal(client.active, false);
    });
  }

  test("lets in once the token is right", async () => {
    let token = "guess";
    const client = make("/auth", { auth: (send) => send({ token }) });
    await once(client, "connect_error");
    token = "let-me-in";
    client.connect();
    await once(client, "connect");
  });
});

describe("disconnect", () => {
  test("by the server is final", async () => {
    const client = await connect();
    client.emit("boom-disconnect");
    const [reason] = await once(client, "disconnect");
    assert.equal(reason, "io server disconnect");
    assert.equal(client.active, false);
  });

  test("by the client is final, and a new connect is a new session", async () => {
    const client = await connect();
    const { id } = client;
    client.disconnect();
    client.connect();
    await once(client, "connect");
    assert.notEqual(client.id, id);
    assert.equal(client.recovered, false);
  });

  test("of a cut connection is temporary", async () => {
    const client = await connect();
    const disconnected = once(client, "disconnect");
    client.emit("cut-me");
    const [reason] = await disconnected;
    assert.match(reason, /^transport/);
    assert.equal(client.active, true);
    await once(client, "connect");
  });

  test("for a restart is temporary", async () => {
    let own = await start("TIDEGATE_REALCLIENTS");
    const client = await connect("", { url: own.url, reconnectionDelayMax: 100 });
    const { id } = client;
    const disconnected = once(client, "disconnect");
    const stopped = own.stop();
    await disconnected;
    await stopped;
    assert.equal(client.active, true);
    own = await start("TIDEGATE_REALCLIENTS", [`127.0.0.1:${own.port}`]);
    await once(client, "connect");
    assert.notEqual(client.id, id);
    client.disconnect();
    await own.stop();
  });

  test("keeps what the client sends meanwhile", async () => {
    const client = await connect("", { reconnection: false });
    const back = new Collected(client, "echo-back");
    client.volatile.emit("echo", "connected");
    await back.count(1);
    client.emit("cut-me");
    await once(client, "disconnect");
    client.emit("echo", "kept");
    client.connect();
    assert.deepEqual(await back.count(2), ["connected", "kept"]);
  });
});

describe("recovery", () => {
  /** A reader that reconnects only when told, so that a gap is certain, and a writer. */
  async function pair(options = {}) {
    const room = newRoom();
    const reader = await connect("", { reconnection: false, ...options });
    const writer = await connect();
    const ticks = new Collected(reader, "m", ({ i }) => i);
    await join(reader, room);
    const tick = (n) => ask(writer, "tick", { room, n });
    return { room, reader, writer, ticks, tick };
  }

  async function cut(client) {
    const disconnected = once(client, "disconnect");
    client.emit("cut-me");
    await disconnected;
  }

  async function comeBack(client) {
    client.connect();
    await once(client, "connect");
  }

  test("brings what was missed, in order, before what is new", async () => {
    const { reader, ticks, tick } = await pair();
    await tick(5);
    await ticks.count(5);
    await cut(reader);
    await tick(10);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    await tick(3);
    assert.deepEqual(await ticks.count(18), [...numbers(5), ...numbers(10), ...numbers(3)]);
    assert.equal(ticks.items.length, 18);
  });

  test("works again and again", async () => {
    const { reader, ticks, tick } = await pair();
    await tick(1);
    for (let round = 1; round <= 5; round += 1) {
      await ticks.count(round * 4 - 3);
      await cut(reader);
      await tick(3);
      await comeBack(reader);
      assert.equal(reader.recovered, true, `round ${round}`);
      await ticks.count(round * 4);
      await tick(1);
    }
    assert.equal((await ticks.count(21)).length, 21);
  });

  test("keeps id, rooms and namespace", async () => {
    const { reader, tick, ticks } = await pair();
    await tick(1);
    await ticks.count(1);
    const before = reader.id;
    await cut(reader);
    await comeBack(reader);
    assert.equal(reader.id, before);
    await tick(1);
    await ticks.count(2);
  });

  test("is automatic with the client's own reconnection", async () => {
    const { reader, tick, ticks } = await pair({ reconnection: true });
    await tick(1);
    await ticks.count(1);
    const back = once(reader, "connect");
    reader.emit("cut-me");
    await back;
    assert.equal(reader.recovered, true);
  });

  test("of a session that has had no event", async (t) => {
    if (server.isReference) {
      return t.skip("the reference needs an event first");
    }
    const reader = await connect("", { reconnection: false });
    const { id } = reader;
    await cut(reader);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    assert.equal(reader.id, id);
  });

  test("of a session that joined a room and has heard nothing yet", async (t) => {
    if (server.isReference) {
      return t.skip("the reference needs an event first");
    }
    const { reader, tick, ticks } = await pair();
    await cut(reader);
    await tick(4);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    assert.deepEqual(await ticks.count(4), numbers(4));
  });

  test("of a session that was idle while others were busy", async () => {
    const { reader, writer, tick, ticks } = await pair();
    await tick(1);
    await ticks.count(1);
    const other = newRoom();
    await ask(writer, "tick", { room: other, n: 500 });
    await cut(reader);
    await ask(writer, "tick", { room: other, n: 500 });
    await tick(2);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    assert.deepEqual(await ticks.count(3), [0, 0, 1]);
  });

  test("after an event whose last argument is a string", async () => {
    const { reader, tick, ticks } = await pair();
    const strings = once(reader, "s");
    reader.emit("string-tail");
    assert.deepEqual((await strings).slice(0, 2), ["a", "b"]);
    await cut(reader);
    await tick(2);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    assert.deepEqual(await ticks.count(2), [0, 1]);
  });

  test("after an event that asks for an ack", async () => {
    const { reader, tick, ticks } = await pair();
    await tick(1);
    await ticks.count(1);
    reader.on("question", (...args) => args.at(-1)("yes"));
    reader.emit("ask-me");
    await once(reader, "answered");
    await cut(reader);
    await tick(1);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    await ticks.count(2);
  });

  test("of binary events", async () => {
    const { reader } = await pair();
    const bins = new Collected(reader, "bin", (data) => Buffer.from(data.deep ?? data).length);
    reader.emit("binary-me");
    await bins.count(1);
    await cut(reader);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    reader.emit("binary-me");
    await bins.count(2);
  });

  test("does not bring what a room said after leaving", async () => {
    const { reader, room, tick, ticks } = await pair();
    await tick(1);
    await ticks.count(1);
    assert.equal((await ask(reader, "leave", room)).ok, true);
    await cut(reader);
    await tick(5);
    await comeBack(reader);
    assert.equal(reader.recovered, true);
    await ask(reader, "echo", "a round trip later");
    assert.deepEqual(ticks.items, [0]);
  });

  test("is refused to a wrong recovery id, and the client starts fresh", async () => {
    const { reader, tick, ticks } = await pair();
    await tick(1);
    await ticks.count(1);
    await cut(reader);
    reader._pid = "AAAAAAAAAAAAAAAAAAAAAAAA";
    const before = reader.id;
    await comeBack(reader);
    assert.equal(reader.recovered, false);
    assert.notEqual(reader.id, before);
  });

  test("is not for a session that was ended", async () => {
    const client = await connect("", { reconnection: false });
    client.emit("echo", 1);
    await once(client, "echo-back");
    client.emit("boom-disconnect");
    await once(client, "disconnect");
    client.connect();
    await once(client, "connect");
    assert.equal(client.recovered, false);
  });

  for (const transport of ["websocket", "polling"]) {
    test(`takes over a ${transport} link that is half open`, async (t) => {
      if (server.isReference) {
        return t.skip("the reference waits for the missing pong");
      }
      const proxy = await Proxy.start(server);
      try {
        const { reader, tick, ticks } = await pair({ url: proxy.url, transports: [transport] });
        await tick(2);
        await ticks.count(2);
        const { id } = reader;
        const disconnected = once(reader, "disconnect");
        const givenUp = proxy.halfOpen();
        if (transport === "polling") {
          // The client sees its request fail; the server believes that it is between two polls, or still polling.
          reader.io.engine.transport.onError?.("network gone");
        }
        await disconnected;
        await tick(3);
        await comeBack(reader);
        assert.equal(reader.recovered, true);
        assert.equal(reader.id, id);
        assert.deepEqual(await ticks.count(5), [0, 1, 0, 1, 2]);
        if (transport === "websocket") {
          await within(Promise.all(givenUp), "end of the old connection");
        }
        await tick(1);
        await ticks.count(6);
      } finally {
        await proxy.stop();
      }
    });
  }

  test("survives a network that fails ten times under a live feed", async () => {
    const proxy = await Proxy.start(server);
    try {
      const { reader, tick, ticks } = await pair({ url: proxy.url, reconnection: true });
      let nSent = 0;
      for (let round = 0; round < 10; round += 1) {
        await tick(5);
        nSent += 5;
        await ticks.count(nSent);
        const back = once(reader, "connect");
        proxy.cut();
        await tick(5);
        nSent += 5;
        await back;
        assert.equal(reader.recovered, true, `round ${round}`);
      }
      const expected = numbers(20).flatMap(() => numbers(5));
      assert.deepEqual(await ticks.count(nSent), expected);
    } finally {
      await proxy.stop();
    }
  });
});

describe("batch events", () => {
  test("come to who asks, and unpack to single messages in order", async () => {
    const [reader, writer] = [await connect("", { auth: { batch: true } }), await connect()];
    const room = newRoom();
    const batches = new Collected(reader, "batch");
    const ticks = new Collected(reader, "m", ({ i }) => i);
    unbatch(reader);
    await join(reader, room);
    await ask(writer, "tick", { room, n: 250 });
    assert.deepEqual(await ticks.count(250), numbers(250));
    for (const batch of batches.items) {
      assert.equal(batch.type, "batch");
      assert.equal(batch.batch_size, batch.messages.length);
      assert.ok(batch.batch_size <= 100, `${batch.batch_size}`);
    }
    const nBatched = batches.items.reduce((sum, batch) => sum + batch.batch_size, 0);
    assert.equal(nBatched, 250);
    assert.ok(batches.items.length <= 25, `${batches.items.length} batches for 250 messages`);
  });

  test("do not come to who does not ask", async () => {
    const [reader, writer] = [await connect(), await connect()];
    const room = newRoom();
    const batches = new Collected(reader, "batch");
    const ticks = new Collected(reader, "m", ({ i }) => i);
    await join(reader, room);
    await ask(writer, "tick", { room, n: 50 });
    assert.deepEqual(await ticks.count(50), numbers(50));
    assert.equal(batches.items.length, 0);
  });
});

// The adapter alone: who is believed, what is answered, and what is said about things it does not do.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { EventEmitter } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { describe, it } from "node:test";
import {
  NotBehindTidegate, Refused, Seen, TidegateServer, TidegateUnavailable, verify, withBytes, withoutBytes,
} from "./tidegate-adapter.mjs";

const SECRET = "a secret of the hook, of more than thirty-two bytes";
const NOW = 1_700_000_000;

function signed(request, { secret = SECRET, stamp = NOW, body = JSON.stringify(request) } = {}) {
  const signature = "v1=" + createHmac("sha256", secret).update(`${stamp}.${body}`).digest("hex");
  return [{ "x-tidegate-timestamp": `${stamp}`, "x-tidegate-signature": signature }, Buffer.from(body)];
}

let nRequests = 0;
const request = (kind, more = {}) => ({
  id: (nRequests += 1).toString(16).padStart(32, "0"),
  kind,
  boot: "b1",
  session: "sid-1",
  namespace: "/",
  user: null,
  data: null,
  ...more,
});
const event = (name, args = [], more = {}) => request("event", { event: name, args, wants_ack: true, ...more });

/** A server, what it sent to Tidegate's API, and a way to ask it. */
async function house(register, { answers, ...options } = {}) {
  const posts = [];
  const api = createServer(async (req, res) => {
    const parts = [];
    for await (const part of req) parts.push(part);
    posts.push([req.url, JSON.parse(Buffer.concat(parts).toString() || "null"), req.headers["x-api-key"]]);
    const answer = answers?.shift() ?? { ok: true, results: [] };
    const headers = { "content-type": "application/json", "retry-after": "0" };
    res.writeHead(answer.status ?? 200, headers).end(JSON.stringify(answer));
  });
  // A test that fails does not end it, and must not wait for it.
  await new Promise((resolve) => api.listen(0, "127.0.0.1", resolve).unref());
  const url = `http://127.0.0.1:${api.address().port}`;
  const io = new TidegateServer(undefined, { secret: SECRET, url, apiKey: "key", ackWaitMs: 50, ...options });
  const errors = [];
  io.onerror = (what, error) => errors.push([what, error]);
  register?.(io);
  const ask = (body, stamp = Math.floor(Date.now() / 1000)) => io.answer(...signed(body, { stamp }));
  const end = async () => {
    await io.close();
    await new Promise((resolve) => api.close(resolve));
  };
  return { io, posts, errors, ask, end };
}

describe("who is believed", () => {
  function check(made, refused, now = NOW) {
    if (!refused) return assert.equal(verify(SECRET, ...made, 60, now).kind, "event");
    assert.throws(() => verify(SECRET, ...made, 60, now), (error) => error instanceof Refused && error.message.startsWith(refused));
  }

  it("a signature counts for its time, body and secret", () => {
    const good = signed(event("x"));
    check(good);
    check(good, undefined, NOW + 60);
    check(good, "timestamp", NOW + 61);
    check(good, undefined, NOW - 5);
    check(good, "timestamp", NOW - 6);
    check(signed(event("x"), { secret: `${SECRET}!` }), "signature");
    check([good[0], Buffer.concat([good[1], Buffer.from(" ")])], "signature");
    check([{ ...good[0], "x-tidegate-timestamp": `${NOW + 1}` }, good[1]], "signature");
    check([{ ...good[0], "x-tidegate-signature": good[0]["x-tidegate-signature"].toUpperCase() }, good[1]], "signature");
    check([{ "x-tidegate-timestamp": `${NOW}` }, good[1]], "signature");
    check([{}, good[1]], "timestamp");
    check([{ ...good[0], "x-tidegate-timestamp": "now" }, good[1]], "timestamp");
  });

  it("a body that is no request is refused although it is signed", () => {
    check(signed(undefined, { body: "[" }), "body");
    check(signed(null), "body");
    check(signed({ kind: "event" }), "body");
    check(signed({ ...event("x"), id: "short" }), "body");
    check(signed({ ...event("x"), kind: "party" }), "body");
  });

  it("an id counts once and is forgotten in time", () => {
    let now = 0;
    const seen = new Seen(10, { now: () => now });
    assert.deepEqual(["a", "b", "a"].map((id) => seen.first(id, NOW)), [true, true, false]);
    assert.deepEqual(["a", "x"].map((id) => seen.has(id, NOW)), [true, false]);
    now = 11;
    assert.deepEqual(["a", "c"].map((id) => seen.first(id, NOW + 11)), [false, true]);
    now = 22;
    assert.equal(seen.first("a", NOW + 22), true);
    now = 100;
    assert.equal(seen.first("c", NOW + 100), true);
    assert.deepEqual([seen.young.size + seen.old.size, seen.forgotEarly], [1, 0]);
  });

  it("more requests than are remembered are served, and none of them twice", () => {
    let now = 0;
    const seen = new Seen(65, { idsMax: 1_000, now: () => now });
    // 100 a second: both generations are full after ten, of the 65 that a signature counts.
    const all = Array.from({ length: 20_000 }, (_, i) => [`id ${i}`, NOW + Math.floor(i / 100)]);
    let most = 0;
    for (const [i, [id, stamp]] of all.entries()) {
      now = i / 100;
      assert.equal(seen.first(id, stamp), true, id);
      most = Math.max(most, seen.young.size + seen.old.size);
    }
    assert.equal(most, 1_000);
    assert.ok(seen.forgotEarly > 30);
    const fresh = all.filter(([, stamp]) => stamp > NOW + 200 - 65);
    for (const [id, stamp] of fresh) {
      const served = (() => {
        try {
          return seen.first(id, stamp);
        } catch (error) {
          assert.deepEqual([error.status, error.message], [401, "timestamp: as old as requests that are forgotten"]);
          return false;
        }
      })();
      assert.equal(served, false, id);
    }
    // What is forgotten is too old in time, and is no reason any more.
    now += 66;
    assert.equal(seen.first("of a clock that was put back", NOW), true);
  });

  it("what was forgotten early is refused by name, and counted", async () => {
    const { io, ask, end } = await house(undefined, { seen: new Seen(65, { idsMax: 2 }) });
    const now = Math.floor(Date.now() / 1000);
    for (const age of [4, 3, 2, 1]) await ask(event("x"), now - age);
    await assert.rejects(ask(event("x"), now - 3), (error) => error.status === 401 && /forgotten/.test(error.message));
    await ask(event("x"), now);
    await end();
    assert.equal(io.seen.forgotEarly, 3);
  });

  it("a store for all workers says what is there and what is new", () => {
    const options = { secret: SECRET, url: "http://127.0.0.1:1", apiKey: "key" };
    assert.throws(() => new TidegateServer(undefined, { ...options, seen: { first() {} } }), /has\(id/);
  });

  it("a short secret stops the start", () => {
    assert.throws(() => new TidegateServer(undefined, { secret: "short" }), /5 bytes, at least 32/);
  });
});

describe("what is answered", () => {
  it("a replayed request is refused, a disconnect is done once", async () => {
    let n = 0;
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("add", (ack) => ack((n += 1)));
        socket.on("disconnect", () => (n += 10));
      });
    });
    const one = event("add");
    assert.deepEqual((await ask(one)).ack, [1]);
    await assert.rejects(ask(one), (error) => error.status === 409);
    const gone = request("disconnect", { reason: "client_left" });
    assert.deepEqual([await ask(gone), await ask(gone)], [{}, {}]);
    assert.equal(n, 11);
    await end();
  });

  it("a disconnect is done when its handlers have ended, and not before", async () => {
    const said = [];
    let finish;
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("disconnect", async (reason) => {
          said.push(reason);
          await new Promise((resolve) => (finish = resolve));
          said.push("ended");
        });
      });
    });
    await ask(request("connect"));
    const gone = request("disconnect", { reason: "client_left" });
    const first = ask(gone);
    await new Promise(setImmediate);
    await assert.rejects(ask(gone), (error) => error.status === 425);
    assert.deepEqual(said, ["client namespace disconnect"]);
    finish();
    assert.deepEqual([await first, await ask(gone)], [{}, {}]);
    assert.deepEqual(said, ["client namespace disconnect", "ended"]);
    await end();
  });

  it("a disconnect is known to the other workers once its handlers have ended", async () => {
    const log = [];
    const ids = new Set();
    const seen = {
      has: async (id) => ids.has(id),
      first: async (id) => (log.push("marked"), !ids.has(id) && Boolean(ids.add(id))),
    };
    const register = (io) => io.on("connection", (socket) => socket.on("disconnect", () => log.push("handled")));
    const [one, other] = [await house(register, { seen }), await house(register, { seen })];
    const gone = request("disconnect", { reason: "client_left" });
    await one.ask(gone);
    assert.deepEqual(await other.ask(gone), {});
    assert.deepEqual(log, ["handled", "marked"]);
    await Promise.all([one.end(), other.end()]);
  });

  it("a handler of a disconnect that never ends is given up", async () => {
    const { ask, errors, end } = await house((io) => {
      io.on("connection", (socket) => socket.on("disconnect", () => new Promise(() => {})));
    }, { endWaitMs: 20 });
    assert.deepEqual(await ask(request("disconnect", { reason: "client_left" })), {});
    assert.match(errors[0][1].message, /20 ms/);
    await end();
  });

  it("middleware lets in and refuses, and the connection says where the client is", async () => {
    const { ask, end } = await house((io) => {
      io.use((socket, next) => next(socket.handshake.auth.ok ? undefined : Object.assign(new Error("no"), { data: { code: 7 } })));
      io.use(async (socket, next) => {
        socket.data.name = socket.handshake.headers.cookie;
        next();
      });
      io.on("connection", async (socket) => {
        await Promise.resolve();
        socket.join(["a", "b"]);
        socket.leave("b");
        socket.broadcast.emit("came", socket.data.name);
      });
    }, { user: (socket) => socket.data.name });
    assert.deepEqual(await ask(request("connect", { auth: {} })), { disconnect: { message: "no", data: { code: 7 } } });
    const answer = await ask(request("connect", { auth: { ok: 1 }, headers: { cookie: "ada" }, query: "EIO=4" }));
    assert.deepEqual(answer, {
      join: ["a"],
      emit: [{ event: "came", args: ["ada"], to: {}, except: { sessions: ["sid-1"] }, namespace: "/" }],
      data: { data: { name: "ada" }, rooms: ["a"] },
      user: "ada",
    });
    await end();
  });

  it("whatever changes of a user is told, once, by every process", async () => {
    const register = (io) => io.on("connection", (socket) => {
      socket.on("be", (user, ack) => {
        socket.data.user = user;
        ack();
      });
      socket.on("be late", async (user) => void (socket.data.user = user));
    });
    const options = { user: async (socket) => socket.data.user };
    let [one, other] = [await house(register, options), await house(register, options)];
    let [user, data] = [null, null];
    /** An event that leaves this user is answered with it, or without. */
    const check = async (who, told, name = "be") => {
      const answer = await one.ask(event(name, [who], { user, data }));
      assert.deepEqual("user" in answer, told, JSON.stringify(who));
      if (told) assert.deepEqual(answer.user, who);
      user = who?.id ?? who;
      data = answer.data ?? data;
      [one, other] = [other, one];
    };
    await check(null, false);
    await check("ada", true);
    await check("ada", false);
    const ada = { id: "ada", roles: ["trader"], expires_at_ms: 1 };
    await check(ada, true);
    await check(ada, false);
    await check({ ...ada, expires_at_ms: 2 }, true);
    await check({ ...ada, expires_at_ms: 2, roles: ["trader", "chief"] }, true, "be late");
    await check({ ...ada, expires_at_ms: 2, roles: ["trader", "chief"] }, false);
    await check({ id: "ada", claims: { desk: { n: 1 } } }, true);
    await check({ id: "ada", claims: { desk: { n: 2 } } }, true);
    await check({ id: "bob", claims: { desk: { n: 2 } } }, true);
    await check("bob", true);
    await check(null, true);
    await check(null, false);
    await Promise.all([one.end(), other.end()]);
  });

  it("messages know the rooms of their moment", async () => {
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("come", () => {
          io.to("r").emit("before");
          socket.join("r");
          io.to("r").emit("after");
        });
        socket.on("go", () => {
          io.to("r").emit("before");
          socket.leave("r");
          io.to("r").emit("after");
        });
      });
    });
    const emitted = ({ emit }) => emit.map(({ event, to, except }) => [event, to.sessions ?? [], except.sessions ?? []]);
    const came = await ask(event("come", [], { wants_ack: false }));
    assert.deepEqual([came.join, emitted(came)], [["r"], [["before", [], ["sid-1"]], ["after", [], []]]]);
    const went = await ask(event("go", [], { wants_ack: false, data: came.data }));
    assert.deepEqual([went.leave, emitted(went)], [["r"], [["before", ["sid-1"], []], ["after", [], []]]]);
    await end();
  });

  it("rooms are texts, an empty list of them is everybody, and nobody is named by an empty list", async () => {
    const { io, ask, posts, end } = await house((server) => {
      server.on("connection", (socket) => {
        socket.on("numbers", (ack) => {
          socket.join([5, "5", 6n]);
          server.to(5).except(6).emit("a");
          socket.leave(6n);
          ack([...socket.rooms]);
        });
        socket.on("lists", () => {
          server.to([]).emit("a");
          server.to("r").except([]).emit("b");
          socket.to([]).emit("c");
          server.in([]).to([7]).emit("d");
        });
      });
    });
    const numbers = await ask(event("numbers"));
    assert.deepEqual([numbers.ack, numbers.join, numbers.leave], [[["sid-1", "5"]], ["5"], undefined]);
    const { to, except } = numbers.emit[0];
    assert.deepEqual([to.rooms, except.rooms], [["5"], ["6"]]);
    const lists = await ask(event("lists", [], { data: numbers.data }));
    assert.deepEqual(lists.emit.map(({ to, except }) => [to, except]), [
      [{}, {}],
      [{ rooms: ["r"] }, {}],
      [{}, { sessions: ["sid-1"] }],
      [{ rooms: ["7"] }, {}],
    ]);
    // In a request of the API a message to everybody names nobody, and nothing is asked for no room.
    io.to([]).except([]).emit("e");
    io.in("r").socketsJoin([]);
    io.in(5).socketsJoin([6]);
    await io.sockets.sockets.get("sid-1").join([]);
    await end();
    const [[, { messages }], ...others] = posts;
    assert.deepEqual(messages.map(({ id, ...message }) => message), [{ event: "e", args: [], namespace: "/" }]);
    assert.deepEqual(others.map(([path, body]) => [path, body]), [["/api/rooms/5/join", { rooms: ["6"], namespace: "/" }]]);
  });

  it("what Tidegate would refuse is refused where it is said", async () => {
    const { io, ask, end } = await house();
    await ask(request("connect"));
    const socket = io.sockets.sockets.get("sid-1");
    const check = (call, expected) => assert.throws(call, expected);
    check(() => socket.join(""), /without a name/);
    check(() => socket.join({ id: 5 }), /room that is a object/);
    check(() => io.to(Symbol("x")), /room that is a symbol/);
    check(() => io.emit("disconnect"), /reserved event name/);
    check(() => socket.emit(""), /reserved event name/);
    check(() => socket.emit("x", 1n), /BigInt/);
    check(() => io.to(Array.from({ length: 1_001 }, (_, n) => n)).emit("x"), /1001 rooms/);
    await end();
  });

  it("what an answer has no place for goes before it, in order", async () => {
    const { ask, posts, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("many", (n, size, ack) => {
          socket.join("r");
          for (let i = 0; i < n; i += 1) io.to("r").emit("m", i, "x".repeat(size));
          ack("done", "y".repeat(size));
        });
      });
    });
    for (const [n, size, nBefore] of [[1_000, 0, 0], [2_500, 0, 2_000], [3, 400_000, 3], [3, 200_000, 2]]) {
      posts.length = 0;
      const answer = await ask(event("many", [n, size]));
      const before = posts.flatMap(([, { messages }]) => messages);
      const all = [...before, ...(answer.emit ?? [])];
      assert.deepEqual(all.map(({ args }) => args[0]), Array.from({ length: n }, (_, i) => i));
      assert.equal(before.length, nBefore, `${n} of ${size}`);
      // It joined before, so it hears those too.
      assert.ok(before.every(({ to }) => to.sessions?.[0] === "sid-1"));
      assert.equal(answer.ack[0], "done");
      assert.ok(posts.every(([, { messages }]) => messages.length <= 1_000));
      assert.ok([answer, ...posts].every((body) => JSON.stringify(body).length < 1 << 20));
      await ask(request("disconnect", { reason: "client_left" }));
    }
    await end();
  });

  it("what the answer to a connect has no place for comes when the client is there", async () => {
    const answers = [{ status: 404, ok: false, error: { code: "not_found" } }, { ok: true, session: {} }];
    const { io, ask, posts, end } = await house((server) => {
      server.on("connection", (socket) => {
        for (let i = 0; i < 1_500; i += 1) socket.emit("history", i);
      });
    }, { answers });
    const answer = await ask(request("connect"));
    await io.close();
    const [asked, again, { 1: { messages } }] = posts;
    assert.deepEqual([asked[0], again[0]], Array(2).fill("/api/sessions/sid-1"));
    const all = [...answer.emit, ...messages].map(({ args }) => args[0]);
    assert.deepEqual([answer.emit.length, all], [1_000, Array.from({ length: 1_500 }, (_, i) => i)]);
    await end();
  });

  it("what a client hears while it is being connected is in the answer, whatever is done to others before", async () => {
    const { ask, posts, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.emit("welcome");
        socket.join("r");
        io.to("r").emit("came");
        socket.to("r").emit("hello");
        io.in("x").socketsJoin("r");
        io.to("r").emit("last");
      });
    });
    const answer = await ask(request("connect"));
    const own = { sessions: ["sid-1"] };
    assert.deepEqual(answer.emit.map(({ event, to }) => [event, to]), [["welcome", own], ["came", own], ["last", { rooms: ["r"] }]]);
    const others = posts.flatMap(([path, body]) => body.messages?.map(({ event }) => event) ?? path);
    assert.deepEqual(others, ["came", "hello", "/api/rooms/x/join"]);
    await end();
  });

  it("bytes go both ways at any depth", () => {
    const sent = { a: [Buffer.from([0, 255]), new Uint8Array([1])], b: null, c: new Date(0) };
    const json = JSON.parse(JSON.stringify(withoutBytes(sent)));
    assert.deepEqual(json, { a: [{ $binary: "AP8=" }, { $binary: "AQ==" }], b: null, c: "1970-01-01T00:00:00.000Z" });
    assert.deepEqual(withBytes(json).a, [Buffer.from([0, 255]), Buffer.from([1])]);
    assert.deepEqual(withBytes({ $binary: "AQ==", more: 1 }), { $binary: "AQ==", more: 1 });
  });

  it("what only looks like bytes is told from them", () => {
    const bytes = Buffer.from([1]);
    const check = (json, value) => {
      assert.deepEqual(withBytes(json), value);
      assert.deepEqual(JSON.parse(JSON.stringify(withoutBytes(value))), json);
    };
    check({ $binary: "AQ==" }, bytes);
    check({ $$binary: "AQ==" }, { $binary: "AQ==" });
    check({ $$binary: 5 }, { $binary: 5 });
    check({ $$$binary: "AQ==" }, { $$binary: "AQ==" });
    check({ $$$$binary: null }, { $$$binary: null });
    check([{ a: { $$binary: { $binary: "AQ==" } } }], [{ a: { $binary: bytes } }]);
    check({ $$binary: { $$binary: "AQ==" } }, { $binary: { $binary: "AQ==" } });
    for (const literal of [{ $binary: "AQ==", n: 1 }, { $$binary: 1, n: 1 }, { binary: "AQ==" }, { $binaryx: "AQ==" }, { x$binary: 1 }]) {
      check(literal, literal);
    }
    // Tidegate never writes it, and nothing is lost of it.
    assert.deepEqual(withBytes({ $binary: 5 }), { $binary: 5 });
    assert.deepEqual(withoutBytes({ toJSON: () => ({ $binary: bytes }) }), { $$binary: { $binary: "AQ==" } });
    assert.throws(() => withoutBytes({ n: [1n] }), /BigInt/);
  });

  it("who can still acknowledge is waited for, and nobody else", async () => {
    const never = new Promise(() => {});
    const handlers = {
      late: (ack) => setTimeout(ack, 5, "late"),
      lateRest: (...args) => setTimeout(() => args.at(-1)("rest"), 5),
      lateDefault: (n, ack = () => {}) => setTimeout(ack, 5, n),
      lateArguments() {
        const ack = arguments[arguments.length - 1];
        setTimeout(ack, 5, "arguments");
      },
      lateBound: function (...args) {
        setTimeout(args.pop(), 5, this.own);
      }.bind({ own: "bound" }),
      promised: async (n, ack) => ack(await Promise.resolve(n)),
      // It names the callback, so its promise is not the end.
      promisedLate: async (ack) => void setTimeout(ack, 5, "after"),
      before: async (ack) => (ack("before"), never),
      twice: (ack) => (ack("first"), ack("second")),
      throwing: (ack) => {
        ack("thrown");
        throw new Error("boom");
      },
    };
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => Object.entries(handlers).forEach(([name, handler]) => socket.on(name, handler)));
    }, { ackWaitMs: 60_000 });
    const check = async (name, args, ack) => assert.deepEqual((await ask(event(name, args))).ack, ack, name);
    await check("late", [], ["late"]);
    await check("lateRest", [1, 2], ["rest"]);
    await check("lateDefault", [3], [3]);
    await check("lateArguments", [], ["arguments"]);
    await check("lateBound", [1], ["bound"]);
    await check("promised", [3], [3]);
    await check("promisedLate", [], ["after"]);
    await check("before", [], ["before"]);
    await check("twice", [], ["first"]);
    await check("throwing", [], ["thrown"]);
    await end();
  });

  it("who cannot acknowledge any more holds up nobody", async () => {
    // It would take a minute.
    const { io, ask, end } = await house((server) => {
      server.on("connection", (socket) => {
        socket.on("none", () => socket.emit("hm"));
        socket.on("named", (n) => n);
        socket.on("done", async (...args) => args.length);
        socket.onAny((...args) => args.length);
      });
    }, { ackWaitMs: 60_000 });
    assert.equal((await ask(event("none"))).emit.length, 1);
    for (const name of ["named", "done", "nobody"]) assert.deepEqual(await ask(event(name, [1])), {}, name);
    await end();
    assert.deepEqual(io.lost, { messages: 0, acknowledgements: 0 });
  });

  it("an acknowledgement after the answer is told of and counted", async () => {
    const acks = [];
    const { io, ask, errors, end } = await house((server) => {
      server.on("connection", (socket) => {
        socket.on("never", (ack) => acks.push(ack));
        socket.on("rest", (...args) => acks.push(args.pop()));
        socket.on("ack", (ack) => (ack(1), acks.push(ack)));
      });
    });
    for (const name of ["never", "rest"]) assert.equal((await ask(event(name))).ack, undefined);
    assert.deepEqual((await ask(event("ack"))).ack, [1]);
    acks.forEach((ack) => ack("late"));
    assert.deepEqual(errors.map(([what]) => what), ['acknowledgement of "never" lost', 'acknowledgement of "rest" lost']);
    assert.equal(io.lost.acknowledgements, 2);
    await end();
  });

  it("an acknowledgement that is no JSON fails in its handler", async () => {
    const { ask, errors, end } = await house((io) => {
      io.on("connection", (socket) => socket.on("n", (ack) => (socket.emit("x"), ack(1n))));
    });
    assert.equal((await ask(event("n"))).emit.length, 1);
    assert.match(errors[0][1].message, /BigInt/);
    await end();
  });

  it("a handler that fails is told of, and what it emitted is sent", async () => {
    const { ask, errors, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("throws", () => {
          socket.emit("first");
          throw new Error("boom");
        });
        socket.on("rejects", async () => {
          throw new Error("bang");
        });
      });
    });
    assert.equal((await ask(event("throws"))).emit[0].event, "first");
    assert.deepEqual(await ask(event("rejects")), {});
    assert.deepEqual(errors.map(([, { message }]) => message), ["boom", "bang"]);
    await end();
  });

  it("after a restart a client is met again without effect on it", async () => {
    let n = 0;
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => {
        n += 1;
        if (!socket.recovered) throw new Error("it is recovered");
        socket.data.name = "overwritten";
        socket.join("again");
        io.emit("noise");
        socket.on("who", (ack) => ack(socket.data.name, [...socket.rooms].sort()));
      });
    });
    const kept = { data: { name: "ada" }, rooms: ["tea"] };
    assert.deepEqual(await ask(event("who", [], { data: kept })), { ack: ["ada", ["sid-1", "tea"]] });
    assert.deepEqual(await ask(event("who", [], { data: kept })), { ack: ["ada", ["sid-1", "tea"]] });
    assert.equal(n, 1);
    await end();
  });

  it("a new start of the one Tidegate ends the sessions of before, once", async () => {
    const gone = [];
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => socket.on("disconnect", (reason) => gone.push([socket.id, reason])));
    });
    await ask(request("connect", { session: "old" }));
    await ask(request("connect", { session: "new", boot: "b2" }));
    assert.deepEqual(gone, [["old", "transport close"]]);
    await ask(request("disconnect", { session: "old", boot: "b1", reason: "ping_timeout" }));
    assert.equal(gone.length, 1);
    await ask(request("disconnect", { session: "new", boot: "b2", reason: "ping_timeout" }));
    assert.deepEqual(gone[1], ["new", "ping timeout"]);
    await end();
  });
});

describe("what goes to Tidegate's API", () => {
  it("messages from outside of a handler go in order, many in one request", async () => {
    const { io, posts, end } = await house();
    io.to("r").emit("one", Buffer.from("x"));
    io.except("q").volatile.emit("two", 1, 2);
    await io.publish({ event: "three", args: [], to: {}, except: {}, namespace: "/" });
    await end();
    const messages = posts.flatMap(([path, { messages }, key]) => (assert.deepEqual([path, key], ["/api/publish", "key"]), messages));
    assert.deepEqual(messages.map(({ event }) => event), ["one", "two", "three"]);
    assert.deepEqual(messages[0].args, [{ $binary: "eA==" }]);
    assert.deepEqual([messages[1].except, messages[1].volatile], [{ rooms: ["q"] }, true]);
    assert.equal(new Set(messages.map(({ id }) => id)).size, 3);
  });

  it("what a handler emits before it asks its client is sent before", async () => {
    const answers = [{ ok: true, results: [] }, { ok: true, answers: [{ session: "sid-1", args: ["yes"] }], timed_out: false }];
    const { ask, posts, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("go", async (ack) => {
          socket.emit("first");
          const answer = await socket.timeout(100).emitWithAck("question");
          socket.emit("last");
          ack(answer);
        });
      });
    }, { answers });
    const answer = await ask(event("go"));
    assert.deepEqual([answer.ack, answer.emit.map(({ event }) => event)], [["yes"], ["last"]]);
    const sent = posts.map(([, body]) => body.messages?.[0].event ?? [body.event, body.ack_timeout_ms]);
    assert.deepEqual(sent, ["first", ["question", 100]]);
    await end();
  });

  it("other clients join, leave and are disconnected by name", async () => {
    const { io, ask, posts, end } = await house();
    await ask(request("connect", { session: "a" }));
    const socket = io.sockets.sockets.get("a");
    await socket.join("r");
    await socket.leave("r");
    socket.disconnect();
    io.in("r s").disconnectSockets();
    await end();
    assert.deepEqual(posts.map(([path, body]) => [path, body]), [
      ["/api/sessions/a/join", { rooms: ["r"], namespace: "/" }],
      ["/api/sessions/a/leave", { rooms: ["r"], namespace: "/" }],
      ["/api/sessions/a/disconnect", { namespace: "/" }],
      ["/api/rooms/r%20s/disconnect", { namespace: "/" }],
    ]);
  });

  it("what a handler does to others comes in its order, and its answer waits for it", async () => {
    const page = { ok: true, next: null, items: [{ id: "x", data: { data: { user: "ada" }, rooms: ["r"] }, rooms: ["r"] }] };
    const answers = [{ ok: true, results: [] }, { ok: true, sessions: 1, refused: 0 }, page];
    const { ask, posts, end } = await house((io) => {
      io.on("connection", (socket) => {
        socket.on("go", async (ack) => {
          io.to("r").emit("before");
          io.in("x").socketsJoin("r");
          io.to("r").emit("after");
          const [found] = await io.in("r").fetchSockets();
          ack(found.id, found.data.user, [...found.rooms]);
        });
      });
    }, { answers });
    const answer = await ask(event("go"));
    assert.deepEqual([answer.ack, answer.emit.map(({ event }) => event)], [["x", "ada", ["x", "r"]], ["after"]]);
    await end();
    assert.deepEqual(posts.map(([path, body]) => [path, body?.messages?.[0].event ?? body]), [
      ["/api/publish", "before"],
      ["/api/rooms/x/join", { rooms: ["r"], namespace: "/" }],
      ["/api/rooms/r/sessions?namespace=%2F&limit=1000", null],
    ]);
  });

  describe("refusals of the API", () => {
    const good = { ok: true };
    const refused = (code, status) => ({ ok: false, error: { code }, status });
    const [busy, limited] = [refused("overloaded", 503), refused("rate_limited", 429)];
    const results = (...list) => ({ ok: true, results: list });

    /** Three messages against these answers: what is in each request, and what is lost. */
    async function check(answers, expected, lost) {
      const { io, posts, errors, end } = await house(undefined, { answers });
      for (const name of ["a", "b", "c"]) io.emit(name);
      await end();
      assert.deepEqual(posts.map(([, { messages }]) => messages.map(({ event }) => event).join("")), expected);
      const ids = posts.flatMap(([, { messages }]) => messages.map(({ event, id }) => `${event} ${id}`));
      assert.equal(new Set(ids).size, 3, "an id stays");
      assert.equal(io.lost.messages, lost);
      assert.equal(errors.length, lost > 0 ? 1 : 0);
      assert.ok(errors.every(([what, error]) => what === `${lost} messages lost` && error instanceof TidegateUnavailable));
      return errors[0]?.[1].message;
    }

    it("for want of a place are sent again, with the same ids", async () => {
      await check([busy, limited, results(good, good, good)], ["abc", "abc", "abc"], 0);
      await check([results(good, busy, limited), results(busy, good), results(good)], ["abc", "bc", "b"], 0);
    });

    it("for want of a place end after a while, and are counted", async () => {
      const message = await check(Array(9).fill(busy), Array(6).fill("abc"), 3);
      assert.match(message, /503 .*overloaded/);
      await check([results(good, busy, good), ...Array(9).fill(limited)], ["abc", ...Array(5).fill("b")], 1);
    });

    it("for any other reason are final, and are counted", async () => {
      assert.match(await check([refused("forbidden", 403)], ["abc"], 3), /403 .*forbidden/);
      await check([refused("unavailable", 503)], ["abc"], 3);
      await check([results(good, refused("too_large"), busy), results(good)], ["abc", "c"], 1);
    });

    it("for want of a place are waited for by those who ask", async () => {
      const page = { ok: true, next: null, items: [] };
      const { io, posts, end } = await house(undefined, { answers: [busy, page] });
      assert.deepEqual(await io.in("r").fetchSockets(), []);
      assert.equal(posts.length, 2);
      await end();
    });
  });
});

describe("what socket.io has", () => {
  const never = () => {};
  /** How each public member is used; null where it is refused. */
  const USES = {
    Server: {
      adapter: null,
      allSockets: (io) => io.in("r").allSockets(),
      attach: (io) => io.attach(createServer()),
      attachApp: null,
      bind: null,
      close: async (io) => {
        const other = new TidegateServer({ secret: SECRET });
        await new Promise((resolve) => other.close(resolve));
        return io;
      },
      compress: (io) => io.compress(true).emit("x"),
      connectTimeout: null,
      disconnectSockets: (io) => io.in("r").disconnectSockets(true),
      engine: null,
      except: (io) => io.except("r").emit("x"),
      fetchSockets: (io) => io.in("r").fetchSockets(),
      httpServer: (io) => io.httpServer,
      in: (io) => io.in("r").emit("x"),
      listen: (io) => io.listen(createServer()),
      local: (io) => io.local.emit("x"),
      of: (io) => io.of("/other", never),
      path: (io) => [io.path(), io.path("/hook")],
      send: (io) => assert.equal(io.send("x"), io),
      serveClient: (io) => [io.serveClient(), io.serveClient(false)],
      serverSideEmit: null,
      serverSideEmitWithAck: null,
      sockets: (io) => io.sockets.emit("x"),
      socketsJoin: (io) => io.in("r").socketsJoin("q"),
      socketsLeave: (io) => io.in("r").socketsLeave(["q"]),
      timeout: (io) => io.timeout(100).emit("x", never),
      to: (io) => io.to("r").emit("x"),
      use: (io) => io.use((_, next) => next()),
      volatile: (io) => io.volatile.emit("x"),
      write: (io) => io.write("x"),
    },
    Namespace: {
      adapter: null,
      allSockets: (nsp) => nsp.in("r").allSockets(),
      compress: (nsp) => nsp.compress(true).emit("x"),
      disconnectSockets: (nsp) => nsp.in("r").disconnectSockets(),
      emit: (nsp) => nsp.emit("x"),
      except: (nsp) => nsp.except("r").emit("x"),
      fetchSockets: (nsp) => nsp.in("r").fetchSockets(),
      in: (nsp) => nsp.in("r").emit("x"),
      local: (nsp) => nsp.local.emit("x"),
      name: (nsp) => assert.equal(nsp.name, "/"),
      send: (nsp) => assert.equal(nsp.send("x"), nsp),
      serverSideEmit: null,
      serverSideEmitWithAck: null,
      sockets: (nsp) => assert.equal(nsp.sockets.size, 1),
      socketsJoin: (nsp) => nsp.in("r").socketsJoin("q"),
      socketsLeave: (nsp) => nsp.in("r").socketsLeave("q"),
      timeout: (nsp) => nsp.timeout(100).emit("x", never),
      to: (nsp) => nsp.to("r").emit("x"),
      use: (nsp) => nsp.use((_, next) => next()),
      volatile: (nsp) => nsp.volatile.emit("x"),
      write: (nsp) => nsp.write("x"),
    },
    Socket: {
      broadcast: (socket) => socket.broadcast.emit("x"),
      client: null,
      compress: (socket) => socket.compress(true).emit("x"),
      conn: null,
      connected: (socket) => assert.equal(socket.connected, true),
      data: (socket) => (socket.data.x = 1),
      disconnect: (socket) => assert.equal(socket.disconnect(true), socket),
      disconnected: (socket) => assert.equal(socket.disconnected, false),
      emit: (socket) => socket.emit("x", never),
      emitWithAck: (socket) => socket.timeout(100).emitWithAck("x"),
      except: (socket) => socket.except("r").emit("x"),
      handshake: (socket) => socket.handshake.headers,
      id: (socket) => assert.equal(socket.id, "sid-1"),
      in: (socket) => socket.in("r").emit("x"),
      join: (socket) => socket.join(["r"]),
      leave: (socket) => socket.leave("r"),
      listenersAny: (socket) => {
        socket.onAny(never).prependAny(always);
        assert.deepEqual(socket.listenersAny(), [always, never]);
        socket.offAny(never);
        assert.deepEqual(socket.listenersAny(), [always]);
        assert.deepEqual(socket.offAny().listenersAny(), []);
      },
      listenersAnyOutgoing: null,
      local: (socket) => socket.local.emit("x"),
      nsp: (socket) => socket.nsp.emit("x"),
      offAny: (socket) => socket.offAny(never),
      offAnyOutgoing: null,
      onAny: (socket) => socket.onAny(never),
      onAnyOutgoing: null,
      prependAny: (socket) => socket.prependAny(never),
      prependAnyOutgoing: null,
      recovered: (socket) => assert.equal(socket.recovered, false),
      request: (socket) => [socket.request.headers.cookie, socket.request.connection.remoteAddress, socket.request.session],
      rooms: (socket) => assert.ok(socket.rooms.has("sid-1")),
      send: (socket) => assert.equal(socket.send("x"), socket),
      timeout: (socket) => socket.timeout(100).volatile.join("r"),
      to: (socket) => socket.to("r").emit("x"),
      use: (socket) => socket.use((_, next) => next()),
      volatile: (socket) => socket.volatile.compress(false).emit("x"),
      write: (socket) => socket.write("x"),
    },
    BroadcastOperator: {
      allSockets: (all) => all.allSockets(),
      compress: (all) => all.compress(true).emit("x"),
      disconnectSockets: (all) => all.disconnectSockets(),
      emit: (all) => all.emit("x", never),
      emitWithAck: (all) => all.timeout(100).emitWithAck("x"),
      except: (all) => all.except("r").emit("x"),
      fetchSockets: (all) => all.fetchSockets(),
      in: (all) => all.in("r").emit("x"),
      local: (all) => all.local.emit("x"),
      socketsJoin: (all) => all.socketsJoin("q"),
      socketsLeave: (all) => all.socketsLeave("q"),
      timeout: (all) => all.timeout(100).emit("x", never),
      to: (all) => all.to("q").emit("x"),
      volatile: (all) => all.volatile.emit("x"),
    },
    RemoteSocket: {
      data: (remote) => assert.deepEqual(remote.data, { a: 1 }),
      disconnect: (remote) => assert.equal(remote.disconnect(true), remote),
      emit: (remote) => remote.emit("x", never),
      handshake: null,
      id: (remote) => assert.equal(remote.id, "x"),
      join: (remote) => remote.join(["r"]),
      leave: (remote) => remote.leave("r"),
      rooms: (remote) => assert.deepEqual([...remote.rooms], ["x", "r"]),
      timeout: (remote) => remote.timeout(100).emit("x", never),
    },
  };
  const always = () => {};
  const broadcast = "broadcast-operator";
  const FILES = { Server: "index", Namespace: "namespace", Socket: "socket", BroadcastOperator: broadcast, RemoteSocket: broadcast };

  /** The public members of a class, as socket.io declares them. */
  async function declared(name) {
    const text = await readFile(new URL(`node_modules/socket.io/dist/${FILES[name]}.d.ts`, import.meta.url), "utf8");
    const [, rest] = text.split(new RegExp(`^export declare class ${name}\\b`, "m"));
    const [body] = rest.split(/^}/m, 1);
    const open = body.replace(/\/\*\* @private \*\/\s*.*/g, "");
    const all = open.matchAll(/^    (?!private|protected|constructor|_)(?:readonly |get |static )*([a-z]\w*)[(<:?]/gim);
    return [...new Set([...all].map(([, member]) => member))].filter((member) => !["private", "get"].includes(member)).sort();
  }

  const session = { id: "x", data: { data: { a: 1 }, rooms: ["r"] }, rooms: ["r"] };
  const known = { ok: true, results: [], answers: [{ session: "sid-1", args: [1] }], timed_out: false, items: [session], next: null };

  for (const [name, uses] of Object.entries(USES)) {
    it(`${name}: each public member is covered, or says what to do instead`, async () => {
      assert.deepEqual(Object.keys(uses).sort(), await declared(name));
      for (const [member, use] of Object.entries(uses)) {
        let met;
        const { io, ask, errors, end } = await house((server) => {
          server.attach(createServer());
          server.on("connection", (socket) => {
            socket.on("use", async (ack) => {
              const [remote] = await server.in("r").fetchSockets();
              const all = { Server: server, Namespace: server.sockets, Socket: socket, RemoteSocket: remote };
              const subject = all[name] ?? server.to("r");
              const refused = (error) => error instanceof NotBehindTidegate && new RegExp(`\\.${member}: .{10}`).test(error.message);
              if (use) await use(subject);
              else assert.throws(() => subject[member], refused);
              met = member;
              ack();
            });
          });
        }, { answers: Array(9).fill(known) });
        await ask(request("connect"));
        await ask(event("use"));
        await end();
        assert.deepEqual([errors, met], [[], member]);
        assert.equal(io.lost.messages, 0);
      }
    });
  }

  it("its emitter, too", async () => {
    const names = Object.getOwnPropertyNames(EventEmitter.prototype).filter((name) => !name.startsWith("_"));
    const { io, ask, end } = await house();
    await ask(request("connect"));
    for (const subject of [io, io.sockets, io.sockets.sockets.get("sid-1")]) {
      for (const name of names) assert.equal(typeof subject[name], "function", name);
      assert.equal(subject.on("connection", never).listenerCount("connection"), 1);
      assert.equal(subject.removeAllListeners("connection").listenerCount("connection"), 0);
    }
    await end();
  });

  it("its flags are for one message", async () => {
    const { ask, end } = await house((io) => {
      io.on("connection", (socket) => socket.on("go", () => {
        socket.volatile.emit("a");
        socket.emit("b");
        socket.volatile.broadcast.emit("c");
        socket.to("r").emit("d");
      }));
    });
    const { emit } = await ask(event("go"));
    assert.deepEqual(emit.map(({ event, volatile }) => [event, volatile]), [["a", true], ["b", undefined], ["c", true], ["d", undefined]]);
    await end();
  });

  it("its options are settings of Tidegate, and say which", () => {
    const check = (option, why) => {
      const options = { secret: SECRET, [option]: {} };
      const isRight = (error) => error instanceof NotBehindTidegate && error.message.includes(option) && why.test(error.message);
      assert.throws(() => new TidegateServer(undefined, options), isRight);
    };
    check("cors", /`origins`/);
    check("pingInterval", /`transport\.ping_interval`/);
    check("connectionStateRecovery", /`recovery\.window`/);
    check("cookie", /a setting of Tidegate/);
  });

  it("a port of its own, namespaces with a listener, and word of new ones", async () => {
    const io = new TidegateServer(0, { secret: SECRET, url: "http://127.0.0.1:1", apiKey: "key" });
    io.onerror = never;
    await new Promise((resolve) => io.httpServer.once("listening", resolve));
    const url = `http://127.0.0.1:${io.httpServer.address().port}`;
    const made = [];
    io.on("new_namespace", ({ name }) => made.push(name));
    let socket;
    io.of("news", (one) => (socket = one));
    io.of("/news");
    assert.deepEqual(made, ["/news"]);
    const post = async (path, [headers, body]) => (await fetch(url + path, { method: "POST", headers, body })).status;
    const connect = () => signed(request("connect", { namespace: "/news" }), { stamp: Math.floor(Date.now() / 1000) });
    assert.deepEqual([await post("/socket.io/", connect()), await post("/other", connect())], [200, 404]);
    assert.equal(socket.nsp.name, "/news");
    io.path("/hook");
    assert.deepEqual([await post("/socket.io/", connect()), await post("/hook", connect())], [404, 200]);
    io.httpServer.closeAllConnections();
    await io.close();
  });
});

it("with several namespaces a client can be disconnected from all of them", async () => {
  const { io, ask, posts, end } = await house((server) => {
    server.of("/other");
    server.on("connection", (socket) => socket.on("go", (close) => {
      socket.emit("bye");
      socket.disconnect(close);
    }));
  });
  assert.deepEqual(await ask(event("go", [true], { wants_ack: false })), {});
  assert.deepEqual(posts.map(([path, body]) => [path, body.messages?.[0].event ?? body]), [
    ["/api/publish", "bye"],
    ["/api/sessions/sid-1/disconnect", { namespace: "/", close: true }],
  ]);
  const answer = await ask(event("go", [false], { wants_ack: false }));
  assert.deepEqual([answer.disconnect, answer.emit[0].event, io.lost.messages], [true, "bye", 0]);
  await end();
});

it("what is not covered says what to do instead", async () => {
  const { io, ask, end } = await house((server) => {
    server.on("connection", (socket) => {
      assert.throws(() => socket.conn, NotBehindTidegate);
      socket.on("question", (ack) => ack());
    });
  });
  await ask(request("connect"));
  await assert.rejects(io.fetchSockets(), NotBehindTidegate);
  for (const call of [() => io.engine, () => io.of(/x/), () => io.serverSideEmit("x"), () => io.except("a").disconnectSockets()]) {
    assert.throws(call, NotBehindTidegate);
  }
  await end();
});
